//! An ELF image's symbol tables into the functions that hold given addresses.

use crate::allocator::elf::Image;

/// Functions of a symbol table that are kept: the largest programs known have about two million.
const MAX_FUNCTIONS: usize = 1 << 21;

/// Where functions lie, and where their names do.
pub struct Functions {
    /// By first address: (first, size, offset of the name).
    places: Vec<(u64, u64, u64)>,
    /// Whether they are those of the dynamic table.
    dynamic: bool,
}

impl Functions {
    /// Those of the static table, or else of the dynamic one.
    pub fn of(image: &Image<'_>) -> Self {
        let dynamic = !image.has_symbol_table();
        let mut places = Vec::new();
        image.each_function(dynamic, |range, name| {
            places.push((range.start, range.end - range.start, name));
            places.len() < MAX_FUNCTIONS
        });
        // Of several names of one function the first counts; it is the last among equals after the sort.
        places.reverse();
        places.sort_by_key(|place| place.0);
        Self { places, dynamic }
    }

    /// The name of the function that holds an address.
    pub fn name(&self, image: &Image<'_>, address: u64) -> Option<String> {
        let next = self.places.partition_point(|place| place.0 <= address);
        let &(start, size, name) = self.places.get(next.checked_sub(1)?)?;
        if address - start >= size {
            return None;
        }
        image.symbol_name(self.dynamic, name).filter(|name| !name.is_empty())
    }
}
