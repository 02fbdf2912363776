//! An ELF image's symbol tables into the functions that hold given addresses.

use crate::allocator::elf::Image;

/// Functions of a symbol table that are kept: the largest programs known have about two million.
const MAX_FUNCTIONS: usize = 1 << 21;

/// Names of one function that are looked at.
const MAX_ALIASES: usize = 16;

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
        places.sort_unstable();
        Self { places, dynamic }
    }

    /// The name of the function that holds an address.
    pub fn name(&self, image: &Image<'_>, address: u64) -> Option<String> {
        let next = self.places.partition_point(|place| place.0 <= address);
        let found = self.places.get(..next)?;
        let start = found.last()?.0;
        let same = found.iter().rev().take_while(|place| place.0 == start).take(MAX_ALIASES);
        let names = same
            .filter(|place| address - start < place.1)
            .filter_map(|place| image.symbol_name(self.dynamic, place.2).filter(|name| !name.is_empty()));
        // The one that people write: libraries have others for their own use, with underscores in front.
        names.min_by_key(|name| (name.len() - name.trim_start_matches('_').len(), name.len(), name.clone()))
    }
}
