//! Names of Go functions into their code: by the symbol table where there is one, else by the line table.

use std::cell::OnceCell;
use std::ops::Range;

use allocscope_common::site_id::Function;

use super::miss;
use super::pclntab::LineTable;
use crate::allocator::elf::{Image, Machine};
use crate::site::Miss;
use crate::site::go::Code;

/// The functions of one image.
pub struct Functions<'i> {
    image: &'i Image<'i>,
    /// The line table and the address that it counts from; looked for when first needed.
    lines: OnceCell<Result<(LineTable<'i>, u64), &'static str>>,
}

/// The code of one function.
pub struct FunctionCode {
    id: Function,
    symbol: &'static str,
    bytes: Vec<u8>,
    start: u64,
    file_offset: u64,
}

impl FunctionCode {
    /// As it is planned from.
    pub fn as_code(&self) -> Code<'_> {
        let Self { id, symbol, ref bytes, start, file_offset } = *self;
        Code { id, symbol, bytes, start, file_offset }
    }
}

impl<'i> Functions<'i> {
    /// Nothing is read yet.
    pub fn of(image: &'i Image<'_>) -> Self {
        Self { image, lines: OnceCell::new() }
    }

    /// The machine that the code is for.
    pub fn machine(&self) -> Machine {
        self.image.machine()
    }

    /// The code of the function of this exact name.
    pub fn code(&self, id: Function, symbol: &'static str) -> Result<FunctionCode, Miss> {
        let range = self.range(symbol)?;
        let start = range.start;
        let len = range.end.saturating_sub(start);
        match (self.image.code(start, len), self.image.file_offset_of(start)) {
            (Some(bytes), Some(file_offset)) => Ok(FunctionCode { id, symbol, bytes, start, file_offset }),
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
        lines
            .function(self.image, *text, symbol)
            .ok_or_else(|| not_found(symbol, "it is not in the line table"))
    }

    fn find_lines(&self) -> Result<(LineTable<'i>, u64), &'static str> {
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
