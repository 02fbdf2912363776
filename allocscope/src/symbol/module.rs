//! An executable or library and addresses in it into the names of functions.

use super::demangle::demangled;
use super::functions::Functions;
use super::lines::Lines;
use crate::allocator::elf::Image;
use crate::allocator::go::pclntab::LineTable;
use std::collections::BTreeMap;

/// Where names are looked for.
pub struct Module<'i> {
    image: &'i Image<'i>,
    /// The separate debug file, if there is one.
    debug: Option<&'i Image<'i>>,
}

/// The functions at each address, the innermost first: several where some were inlined.
pub type Names = BTreeMap<u64, Vec<String>>;

impl<'i> Module<'i> {
    /// An image, and the separate file with its symbols and debug information.
    pub fn new(image: &'i Image<'i>, debug: Option<&'i Image<'i>>) -> Self {
        Self { image, debug }
    }

    /// The names at addresses, those of Go by its own table, others by debug information and symbols. What has no
    /// name is absent. While `may_go_on` tells so: a damaged file can take any time.
    pub fn names(&self, addresses: &[u64], mut may_go_on: impl FnMut() -> bool) -> Names {
        let mut names = Names::new();
        let go = LineTable::find(self.image).and_then(|table| Some((table.text_start(self.image)?, table)));
        let symbols = Functions::of(self.symbols());
        let lines =
            if go.is_none() && may_go_on() { Lines::of(self.debug.unwrap_or(self.image)) } else { None };
        for &address in addresses {
            if !may_go_on() {
                break;
            }
            let of_go = go.as_ref().and_then(|(text, table)| table.name_at(*text, address));
            let found = match of_go {
                Some(name) => vec![name],
                None => self.native(&symbols, lines.as_ref(), address),
            };
            if !found.is_empty() {
                names.insert(address, found);
            }
        }
        names
    }

    fn symbols(&self) -> &'i Image<'i> {
        self.debug.filter(|debug| debug.has_symbol_table()).unwrap_or(self.image)
    }

    /// Debug information knows inlined functions, but may have short names; the outermost one's is the symbol's.
    fn native(&self, symbols: &Functions, lines: Option<&Lines>, address: u64) -> Vec<String> {
        let symbol = symbols.name(self.symbols(), address);
        let mut names = lines.map(|lines| lines.names(address)).unwrap_or_default();
        match (symbol, names.last_mut()) {
            (Some(symbol), Some(outermost)) => *outermost = symbol,
            (Some(symbol), None) => names.push(symbol),
            (None, _) => {}
        }
        names.iter().map(|name| demangled(name)).collect()
    }
}
