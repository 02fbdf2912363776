//! Symbol tables into the functions that they name.

use std::ops::{ControlFlow, Range};

use object::LittleEndian;
use object::elf::{self, Sym64};
use object::read::elf::{SectionHeader as _, Sym as _};

use super::Image;
use super::headers::{LE, Section, section_range};
use super::strings::{c_string, places_of};
use crate::allocator::source::Part;

const MAX_SYMBOLS: u64 = 1 << 22;
const MAX_SYMBOL_NAMES_BYTES: u64 = 256 << 20;

type Symbol = Sym64<LittleEndian>;

impl Image<'_> {
    /// Whether the image has a static symbol table.
    pub fn has_symbol_table(&self) -> bool {
        self.symbols.entries(self.file()).is_some_and(|entries| !entries.is_empty())
    }

    /// The address range of a function in the static symbol table.
    pub fn function_symbol(&self, name: &str) -> Option<Range<u64>> {
        self.functions_in(&[&self.symbols], &[name]).pop()?
    }

    /// The address ranges of functions of these exact names, static or dynamic: one pass over each
    /// table. Where a name stands more than once, the first counts; indirect functions do not.
    pub fn functions(&self, names: &[&str]) -> Vec<Option<Range<u64>>> {
        self.functions_in(&[&self.symbols, &self.dynamic_symbols], names)
    }

    /// The address range of a function by its name, static or dynamic.
    pub fn function_named(&self, name: &str) -> Option<Range<u64>> {
        self.functions(&[name]).pop()?
    }

    /// The address ranges of functions that other images may call, by their names.
    pub fn exported_functions(&self, names: &[&str]) -> Vec<Option<Range<u64>>> {
        self.functions_in(&[&self.dynamic_symbols], names)
    }

    /// The lowest index in `names` of a symbol that the image defines, static or dynamic.
    pub fn first_defined(&self, names: &[&str]) -> Option<usize> {
        let mut first = None;
        for table in [&self.symbols, &self.dynamic_symbols] {
            table.for_each_defined(self.file(), names, |index, _| {
                first = Some(first.map_or(index, |first: usize| first.min(index)));
            });
        }
        first
    }

    /// Shows each function of the static or dynamic symbol table, with the offset of its name, until `visit` has
    /// had enough.
    pub fn each_function(&self, dynamic: bool, mut visit: impl FnMut(Range<u64>, u64) -> bool) {
        let Some(entries) = self.symbol_table(dynamic).entries(self.file()) else { return };
        entries.first(MAX_SYMBOLS * size_of::<Symbol>() as u64).records(|symbol: &Symbol| {
            let defined = symbol.st_shndx(LE) != elf::SHN_UNDEF;
            let goes_on = match function_range(symbol).filter(|_| defined) {
                Some(range) => visit(range, symbol.st_name(LE).into()),
                None => true,
            };
            if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }

    /// The name at an offset that [`Self::each_function`] told.
    pub fn symbol_name(&self, dynamic: bool, offset: u64) -> Option<String> {
        let strings = self.file().part(self.symbol_table(dynamic).names.clone())?;
        c_string(strings, offset)
    }

    fn symbol_table(&self, dynamic: bool) -> &SymbolTable {
        if dynamic { &self.dynamic_symbols } else { &self.symbols }
    }

    fn functions_in(&self, tables: &[&SymbolTable], names: &[&str]) -> Vec<Option<Range<u64>>> {
        let mut found = vec![None; names.len()];
        for table in tables {
            table.for_each_defined(self.file(), names, |index, symbol| {
                if let Some(place) = found.get_mut(index).filter(|place| place.is_none()) {
                    *place = function_range(symbol);
                }
            });
        }
        found
    }
}

/// Where the file has a symbol table and its names.
#[derive(Default)]
pub(super) struct SymbolTable {
    entries: Range<u64>,
    names: Range<u64>,
}

impl SymbolTable {
    /// The first table of this type; an empty one where there is none or it is damaged.
    pub(super) fn find(sections: &[Section], kind: u32) -> Self {
        let found = sections.iter().find(|s| s.sh_type(LE) == kind).and_then(|table| {
            let names = sections.get(table.link(LE).0)?;
            Some(Self { entries: section_range(table)?, names: section_range(names)? })
        });
        found.unwrap_or_default()
    }

    fn entries<'s>(&self, file: Part<'s>) -> Option<Part<'s>> {
        file.part(self.entries.clone())
    }

    /// Shows each defined symbol that has one of the names, with the index of the name. The names are
    /// looked for in the string table first: then the symbols only have numbers to be compared.
    fn for_each_defined(&self, file: Part<'_>, names: &[&str], mut visit: impl FnMut(usize, &Symbol)) {
        let (Some(entries), Some(strings)) = (self.entries(file), file.part(self.names.clone())) else {
            return;
        };
        let places = places_of(strings.first(MAX_SYMBOL_NAMES_BYTES), names);
        if places.is_empty() {
            return;
        }
        entries.first(MAX_SYMBOLS * size_of::<Symbol>() as u64).records(|symbol: &Symbol| {
            if symbol.st_shndx(LE) != elf::SHN_UNDEF
                && let Ok(found) = places.binary_search_by_key(&u64::from(symbol.st_name(LE)), |p| p.0)
                && let Some(&(_, index)) = places.get(found)
            {
                visit(index, symbol);
            }
            ControlFlow::<()>::Continue(())
        });
    }
}

fn function_range(symbol: &Symbol) -> Option<Range<u64>> {
    let start = symbol.st_value(LE);
    let is_function = symbol.st_type() == elf::STT_FUNC && symbol.st_size(LE) > 0;
    is_function.then_some(start..start.checked_add(symbol.st_size(LE))?)
}
