//! Texts of an allocator's messages into the functions whose code takes their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use iced_x86::{Instruction, Mnemonic};

use super::super::follow::Follower;
use crate::site::decode::Function;

/// Of an image's data, in bytes, that is looked through for the texts.
const MAX_SCAN_BYTES: u64 = 64 << 20;
/// A text is in an executable once, or a few times where parts of it were linked apart.
const MAX_COPIES: usize = 64;

/// The functions that take addresses of `texts`, with how many different ones each takes.
pub fn takers(follower: &Follower<'_>, texts: &[Vec<u8>]) -> Option<BTreeMap<u64, usize>> {
    let places = places(follower, texts)?;
    let addresses: Vec<u64> = places.keys().copied().collect();
    let functions = follower.functions_of(&follower.taking(&addresses)?);
    let taken = functions.into_iter().filter_map(|start| {
        let taken = follower.with_code(&follower.function(start)?, |code| taken_by(code, &places))?;
        (taken > 0).then_some((start, taken))
    });
    Some(taken.collect())
}

/// The addresses of the texts, with the index of each.
fn places(follower: &Follower<'_>, texts: &[Vec<u8>]) -> Option<BTreeMap<u64, usize>> {
    let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    let (mut places, mut left) = (BTreeMap::new(), MAX_SCAN_BYTES);
    for (start, data) in follower.image.data_segments() {
        let part = data.first(left);
        left -= part.len();
        let broke = part.search(&texts, |offset, index| {
            places.insert(start.saturating_add(offset), index);
            if places.len() > MAX_COPIES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if broke.is_some() {
            return None;
        }
    }
    Some(places)
}

fn taken_by(code: &Function<'_>, places: &BTreeMap<u64, usize>) -> usize {
    let takes = |i: &&Instruction| i.mnemonic() == Mnemonic::Lea && i.is_ip_rel_memory_operand();
    let taken = code.instructions().iter().filter(takes);
    taken.filter_map(|i| places.get(&i.ip_rel_memory_address())).collect::<BTreeSet<_>>().len()
}
