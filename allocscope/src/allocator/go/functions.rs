//! Names of Go functions into their code: by the symbol table where there is one, else by the line table.

use std::cell::OnceCell;
use std::ops::Range;

use allocscope_common::site_id::Function;

use super::miss;
use super::pclntab::LineTable;
use crate::allocator::elf::Image;
use crate::site::Miss;
use crate::site::go::Code;

/// The functions of one image.
pub struct Functions<'i, 'a> {
    image: &'i Image<'a>,
    /// The line table and the address that it counts from; looked for when first needed.
    lines: OnceCell<Result<(LineTable<'a>, u64), &'static str>>,
}

impl<'i, 'a> Functions<'i, 'a> {
    /// Nothing is read yet.
    pub fn of(image: &'i Image<'a>) -> Self {
        Self { image, lines: OnceCell::new() }
    }

    /// The code of the function of this exact name.
    pub fn code(&self, id: Function, symbol: &'static str) -> Result<Code<'a>, Miss> {
        let range = self.range(symbol)?;
        let start = range.start;
        let len = range.end.saturating_sub(start);
        match (self.image.code(start, len), self.image.file_offset_of(start)) {
            (Some(bytes), Some(file_offset)) => Ok(Code { id, symbol, bytes, start, file_offset }),
            _ => Err(not_found(symbol, "its address is not in the binary's code")),
        }
    }

    /// Its address.
    pub fn start(&self, symbol: &str) -> Result<u64, Miss> {
        self.range(symbol).map(|range| range.start)
    }

    fn range(&self, symbol: &str) -> Result<Range<u64>, Miss> {
        if let Some(range) = self.image.function_symbol(symbol) {
            return Ok(range);
        }
        let (lines, text) =
            self.lines.get_or_init(|| self.find_lines()).as_ref().map_err(|why| not_found(symbol, why))?;
        lines.function(*text, symbol).ok_or_else(|| not_found(symbol, "it is not in the line table"))
    }

    fn find_lines(&self) -> Result<(LineTable<'a>, u64), &'static str> {
        let lines =
            LineTable::find(self.image).ok_or("the binary has neither its symbol nor a line table")?;
        let text = lines
            .text_start(self.image)
            .ok_or("the binary does not say where the code of its line table starts")?;
        Ok((lines, text))
    }
}

fn not_found(symbol: &str, why: &str) -> Miss {
    miss("go_function_not_found", format!("{symbol} cannot be located: {why}"))
}
