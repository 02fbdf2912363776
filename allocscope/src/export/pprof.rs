//! A profile into profile.proto, packed by gzip, which `go tool pprof` and others read.

use super::costs::Costs;
use crate::aggregate::Values;
use crate::symbol::{NO_MODULE, Place};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use std::collections::HashMap;
use std::io::{self, Write};

// The messages of github.com/google/pprof/proto/profile.proto, as far as they are written.

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
    #[prost(int64, tag = "3")]
    number: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
}

/// Names and units of the values, in the order of [`numbers`].
const VALUES: [(&str, &str); 6] = [
    ("allocations", "count"),
    ("alloc_space", "bytes"),
    ("call", "nanoseconds"),
    ("touch", "nanoseconds"),
    ("release", "nanoseconds"),
    ("faults", "count"),
];
/// The value that is shown first.
const FIRST_SHOWN: usize = 1;

fn numbers(values: &Values) -> Vec<i64> {
    let Values { count, bytes, call_ns, touch_ns, release_ns, faults } = *values;
    [count, bytes, call_ns, touch_ns, release_ns, faults]
        .map(|value| i64::try_from(value).unwrap_or(i64::MAX))
        .into()
}

/// The packed profile.
///
/// # Errors
/// None: nothing is written to but memory.
pub fn pprof(costs: &Costs<'_>) -> io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&Builder::new(costs).document().encode_to_vec())?;
    packed.finish()
}

/// Numbers strings, functions and locations as they are met.
struct Builder<'a> {
    costs: &'a Costs<'a>,
    document: Document,
    strings: HashMap<String, i64>,
    functions: HashMap<String, u64>,
    locations: HashMap<(Place, usize), u64>,
}

impl<'a> Builder<'a> {
    fn new(costs: &'a Costs<'a>) -> Self {
        let mut builder = Self {
            costs,
            document: Document::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        };
        builder.string("");
        builder
    }

    fn document(mut self) -> Document {
        for (kind, unit) in VALUES {
            let value = ValueType { kind: self.string(kind), unit: self.string(unit) };
            self.document.sample_type.push(value);
        }
        self.document.default_sample_type = self.string(VALUES[FIRST_SHOWN].0);
        self.document.time_nanos = i64::try_from(self.costs.began.as_nanos()).unwrap_or(0);
        self.document.duration_nanos = i64::try_from(self.costs.duration.as_nanos()).unwrap_or(0);
        self.mappings();
        self.samples();
        self.document
    }

    /// Modules, with addresses that do not overlap: theirs are those of their files.
    fn mappings(&mut self) {
        for (module, path) in self.costs.modules.iter().enumerate() {
            let filename = self.string(&path.to_string_lossy());
            let id = module as u64 + 1;
            let mapping = Mapping {
                id,
                memory_limit: u64::MAX,
                filename,
                has_functions: true,
                has_inline_frames: true,
            };
            self.document.mapping.push(mapping);
        }
    }

    fn samples(&mut self) {
        let (pid, comm) = (self.string("pid"), self.string("comm"));
        for (site, values) in self.costs.profile.sites() {
            let places = self.costs.callers(site);
            let location_id = places.iter().map(|&(place, skipped)| self.location(place, skipped)).collect();
            let name = self.costs.comms.get(&site.pid).map_or("?", String::as_str);
            let text = self.string(name);
            let label = vec![
                Label { key: pid, text: 0, number: i64::from(site.pid) },
                Label { key: comm, text, number: 0 },
            ];
            self.document.sample.push(Sample { location_id, value: numbers(values), label });
        }
    }

    fn location(&mut self, place: Place, skipped: usize) -> u64 {
        if let Some(&id) = self.locations.get(&(place, skipped)) {
            return id;
        }
        let id = self.document.location.len() as u64 + 1;
        let names = self.costs.names_at(&place);
        let line = names.iter().skip(skipped).map(|name| Line { function_id: self.function(name) }).collect();
        let mapping_id = if place.module == NO_MODULE { 0 } else { u64::from(place.module) + 1 };
        self.document.location.push(Location { id, mapping_id, address: place.address, line });
        self.locations.insert((place, skipped), id);
        id
    }

    fn function(&mut self, name: &str) -> u64 {
        if let Some(&id) = self.functions.get(name) {
            return id;
        }
        let id = self.document.function.len() as u64 + 1;
        let text = self.string(name);
        self.document.function.push(Function { id, name: text, system_name: text });
        self.functions.insert(name.to_owned(), id);
        id
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(&number) = self.strings.get(text) {
            return number;
        }
        let number = self.document.string_table.len() as i64;
        self.document.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), number);
        number
    }
}
