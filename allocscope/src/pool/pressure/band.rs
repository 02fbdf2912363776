//! A share over time into whether to act: from the high mark on until the low mark, not by one mark alone.

use super::PressureError;

/// Two marks of a share; above the high one something begins that lasts until the low one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    high: f64,
    low: f64,
}

impl Band {
    /// Shares between 0 and 1, the low one below the high one.
    pub fn new(high: f64, low: f64) -> Result<Self, PressureError> {
        let in_order = 0.0 <= low && low < high && high <= 1.0;
        if in_order { Ok(Self { high, low }) } else { Err(PressureError::Band) }
    }

    pub(super) const fn of(high: f64, low: f64) -> Self {
        assert!(0.0 <= low && low < high && high <= 1.0);
        Self { high, low }
    }

    /// Where it begins.
    pub fn high(&self) -> f64 {
        self.high
    }

    /// Where it ends.
    pub fn low(&self) -> f64 {
        self.low
    }
}

/// A band and whether it has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latch {
    pub(super) band: Band,
    begun: bool,
}

impl Latch {
    pub(super) fn new(band: Band) -> Self {
        Self { band, begun: false }
    }

    /// Whether to act at this share. `worth` says that acting would do something; without it nothing goes on, and
    /// nothing begins again before the high mark.
    pub(super) fn step(&mut self, share: f64, worth: bool) -> bool {
        self.begun = worth && (share >= self.band.high || self.begun && share > self.band.low);
        self.begun
    }

    pub(super) fn begun(&self) -> bool {
        self.begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_in_disorder_are_refused() {
        for (high, low) in
            [(0.5, 0.5), (0.5, 0.6), (1.1, 0.5), (0.5, -0.1), (f64::NAN, 0.1), (0.5, f64::NAN), (0.0, 0.0)]
        {
            assert_eq!(Band::new(high, low), Err(PressureError::Band), "{high} {low}");
        }
        assert!(Band::new(1.0, 0.0).is_ok());
    }

    #[test]
    fn it_lasts_from_high_to_low() {
        let mut latch = Latch::new(Band::of(0.9, 0.7));
        let shares = [0.89, 0.9, 0.8, 0.71, 0.7, 0.71, 0.89, 0.95, 0.1];
        let steps = shares.map(|share| latch.step(share, true));
        assert_eq!(steps, [false, true, true, true, false, false, false, true, false]);
    }
}
