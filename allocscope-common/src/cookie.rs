//! A field of a 64-bit attach cookie: where its bits are, said once for both directions.

/// Some bits of a cookie.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    shift: u32,
    bits: u32,
}

impl Field {
    /// `bits` of them, 1 to 63, from bit `shift` on.
    pub const fn new(shift: u32, bits: u32) -> Self {
        assert!(bits > 0 && bits < 64 && shift + bits <= 64);
        Self { shift, bits }
    }

    /// The cookie in which the field is `value` and all else 0; what does not fit is cut off.
    pub const fn put(self, value: u64) -> u64 {
        (value & ((1 << self.bits) - 1)) << self.shift
    }

    /// The field's value in a cookie.
    #[inline(always)]
    pub const fn get(self, cookie: u64) -> u64 {
        cookie >> self.shift & ((1 << self.bits) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_keeps_to_its_bits() {
        let field = Field::new(60, 4);
        assert_eq!(field.put(0x1f), 0xf << 60);
        assert_eq!(field.get(field.put(9) | 7), 9);
    }
}
