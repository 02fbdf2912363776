//! The notes of a binary's statically defined probes into the sites of the providers `allocscope` and `otel_memory`.
//!
//! The form is that of systemtap's `sys/sdt.h` (`.note.stapsdt`, owner `stapsdt`, type 3): addresses of the probe, of
//! the byte that tells by how much the file was moved, and of the semaphore; then provider, name and arguments as
//! strings. What a note claims is believed where the code bears it out: a `nop` that an instruction begins at, a
//! semaphore in writable data, arguments where the kernel side reads them: for `allocscope` always the same registers,
//! for `otel_memory` ([`allocscope_common::provider`]) wherever the note says.

use allocscope_common::operand::Operand;
use allocscope_common::provider::{ProviderEvent, ProviderId};
use allocscope_common::site_id::StepClass;

use super::argument::operand;
use super::elf::{Image, Machine};
use super::frames::Frames;
use crate::site::decode::Function;
use crate::site::{Miss, Plan, ProviderSite};

const NOTES: &str = ".note.stapsdt";
const BASE: &str = ".stapsdt.base";
const OWNER: &[u8] = b"stapsdt\0";
const NOTE_TYPE: u32 = 3;
const PROVIDER: &[u8] = b"allocscope";
const OTEL: &[u8] = b"otel_memory";
/// Of those of `alloc(pointer, size, weight)`.
const WEIGHT: usize = 2;
/// Of the notes that are read. A program with thousands of probes has some hundred KiB.
const MAX_NOTES_BYTES: u64 = 4 << 20;
/// Sites of a binary and a provider that are looked at. Ours has one for each probe in each copy of its library.
const MAX_SITES: usize = 64;

/// Where the linker has dropped a probe's function, its note is left and has the place in that for an address; no
/// code is mapped so low.
const FIRST_ADDRESS: u64 = 4096;

/// `size, duration, address` as `allocscope` passes them.
const ARGUMENTS_X86_64: &[u8] = b"8@%rdi 8@%rsi 8@%rdx";
const ARGUMENTS_AARCH64: &[u8] = b"8@x0 8@x1 8@x2";
const NOP: [u8; 1] = [0x90];
/// The one that Linux 6.18 makes a call of.
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
const NOP_AARCH64: [u8; 4] = 0xd503_201f_u32.to_le_bytes();
const PAGE_MASK: u64 = 4095;

/// A note of a probe, as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note<'a> {
    address: u64,
    base: u64,
    semaphore: u64,
    provider: &'a [u8],
    name: &'a [u8],
    arguments: &'a [u8],
}

/// Adds the providers' sites to a plan.
pub fn add(image: &Image<'_>, plan: &mut Plan) {
    let Some((_, part)) = image.section_part(NOTES) else { return };
    let Some(bytes) = part.prefix(MAX_NOTES_BYTES) else { return };
    if !notes(&bytes).any(|note| note.is_of(PROVIDER) || note.is_of(OTEL)) {
        return;
    }
    let (frames, moved_to) = (Frames::find(image), image.section_part(BASE).map(|(address, _)| address));
    for provider in [PROVIDER, OTEL] {
        let of_provider = || notes(&bytes).filter(|note| note.is_of(provider));
        for note in of_provider().take(MAX_SITES) {
            let found = site(image, frames.as_ref(), note, moved_to);
            if let Err(why) = found.and_then(|site| add_site(plan, site)) {
                plan.misses.push(missed(note, why));
            }
        }
        let count = of_provider().count();
        if count > MAX_SITES {
            let name = String::from_utf8_lossy(provider);
            let detail =
                format!("of {count} probes of the provider {name} the first {MAX_SITES} are looked at");
            plan.misses.push(Miss { reason: "provider_sites_too_many", detail });
        }
    }
}

/// Two notes of one place are one probe where they say the same: the linker has folded equal functions.
fn add_site(plan: &mut Plan, site: ProviderSite) -> Result<(), &'static str> {
    match plan.provider.iter().find(|other| other.file_offset == site.file_offset) {
        Some(&other) if other == site => {}
        Some(_) => return Err("another one is in its place"),
        None => plan.provider.push(site),
    }
    Ok(())
}

impl Note<'_> {
    fn is_of(&self, provider: &[u8]) -> bool {
        self.provider == provider && self.address >= FIRST_ADDRESS
    }
}

fn missed(note: Note<'_>, why: &str) -> Miss {
    let name: String =
        String::from_utf8_lossy(note.name).chars().filter(|c| !c.is_control()).take(64).collect();
    let provider = String::from_utf8_lossy(note.provider);
    let detail = format!("the probe {provider}:{name} at {:#x} is not attached: {why}", note.address);
    Miss { reason: "provider_site_not_probed", detail }
}

/// Where the probe of a note is, or why it is not believed.
fn site(
    image: &Image<'_>,
    frames: Option<&Frames>,
    note: Note<'_>,
    moved_to: Option<u64>,
) -> Result<ProviderSite, &'static str> {
    let event = event_of(note).ok_or("its name is not known")?;
    let moved = moved_to.map_or(0, |now| now.wrapping_sub(note.base));
    let address = note.address.wrapping_add(moved);
    let file_offset = image.file_offset_of(address).ok_or("it lies outside of the binary's code")?;
    let (is_followed_by_nop5, weight) = if event.is_sample() {
        check_sample(image, frames, address, event, note.arguments)?
    } else {
        (check_code(image, frames, address, note.arguments)?, None)
    };
    let semaphore = match note.semaphore {
        0 => None,
        place => Some(
            image
                .counter_offset_of(place.wrapping_add(moved))
                .ok_or("its semaphore is not in writable data")?,
        ),
    };
    // Of an instruction that spans two pages the kernel makes no call.
    let is_in_page = (file_offset + 1) & PAGE_MASK <= PAGE_MASK + 1 - NOP5.len() as u64;
    let id = ProviderId { event, step: StepClass::Emulated, weight };
    let called_offset = (is_followed_by_nop5 && is_in_page).then_some(file_offset + 1);
    Ok(ProviderSite { id, file_offset, called_offset, semaphore_offset: semaphore })
}

fn event_of(note: Note<'_>) -> Option<ProviderEvent> {
    if note.provider == OTEL {
        return match note.name {
            b"alloc" => Some(ProviderEvent::OtelAlloc),
            b"free" => Some(ProviderEvent::OtelFree),
            _ => None,
        };
    }
    let is_named = |event: &ProviderEvent| !event.is_sample() && event.name().as_bytes() == note.name;
    ProviderEvent::ALL.iter().copied().find(is_named)
}

/// Where a sample's weight is; an error where that is not to be found, or the code has no `nop` there. One of 5 bytes
/// behind it is foreign code's, which no probe is put on: `false`.
fn check_sample(
    image: &Image<'_>,
    frames: Option<&Frames>,
    address: u64,
    event: ProviderEvent,
    arguments: &[u8],
) -> Result<(bool, Option<Operand>), &'static str> {
    if image.machine() == Machine::Aarch64 {
        return Err("its arguments are read on x86-64 only");
    }
    let is_weighed = event == ProviderEvent::OtelAlloc;
    let weight = is_weighed.then(|| operand(arguments, WEIGHT)).transpose()?;
    check_nop(image, frames, address)?;
    Ok((false, weight))
}

/// Whether a 5-byte `nop` follows; an error where the code is not what the provider has there.
fn check_code(
    image: &Image<'_>,
    frames: Option<&Frames>,
    address: u64,
    arguments: &[u8],
) -> Result<bool, &'static str> {
    const ELSEWHERE: &str = "its arguments are not where the provider has them";
    if image.machine() == Machine::Aarch64 {
        let code = image.code(address, NOP_AARCH64.len() as u64);
        let is_nop = code.is_some_and(|code| code == NOP_AARCH64) && address.is_multiple_of(4);
        return match (is_nop, arguments == ARGUMENTS_AARCH64) {
            (true, true) => Ok(false),
            (true, false) => Err(ELSEWHERE),
            (false, _) => Err("there is no nop"),
        };
    }
    if arguments != ARGUMENTS_X86_64 {
        return Err(ELSEWHERE);
    }
    check_nop(image, frames, address)
}

/// Whether a 5-byte `nop` follows that of 1 byte; an error where there is none.
fn check_nop(image: &Image<'_>, frames: Option<&Frames>, address: u64) -> Result<bool, &'static str> {
    let bounds = frames.and_then(|frames| frames.function_at(address)).ok_or("its function is not known")?;
    let len = bounds.end.saturating_sub(bounds.start);
    let code = image.code(bounds.start, len).ok_or("its function lies outside of the binary's code")?;
    let function = Function::decode(&code, bounds.start)
        .map_err(|_| "its function is too long, or not all of it is instructions")?;
    let is_nop = |&index: &usize| function.encoding(index) == NOP;
    let index = function.index_of(address).filter(is_nop).ok_or("no nop of 1 byte begins there")?;
    Ok(function.encoding(index + 1) == NOP5)
}

/// The probes' notes among those in a section; what is torn ends them.
fn notes(mut bytes: &[u8]) -> impl Iterator<Item = Note<'_>> {
    std::iter::from_fn(move || {
        let (note, rest) = next_note(bytes)?;
        bytes = rest;
        Some(note)
    })
    .flatten()
}

/// The first note, where it is one of a probe, and what comes behind it.
fn next_note(bytes: &[u8]) -> Option<(Option<Note<'_>>, &[u8])> {
    let (name_len, rest) = word(bytes)?;
    let (content_len, rest) = word(rest)?;
    let (kind, rest) = word(rest)?;
    let (owner, rest) = padded(rest, name_len)?;
    let (content, rest) = padded(rest, content_len)?;
    let note = if kind == NOTE_TYPE && owner == OWNER { probe(content) } else { None };
    Some((note, rest))
}

fn probe(content: &[u8]) -> Option<Note<'_>> {
    let (address, rest) = address_of(content)?;
    let (base, rest) = address_of(rest)?;
    let (semaphore, rest) = address_of(rest)?;
    let mut strings = rest.split(|&byte| byte == 0);
    let (provider, name, arguments) = (strings.next()?, strings.next()?, strings.next()?);
    // The last string has its end, too.
    strings.next()?;
    Some(Note { address, base, semaphore, provider, name, arguments })
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*word), rest))
}

fn address_of(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*word), rest))
}

/// `len` bytes, and what comes behind their padding to four; the last note may lack it.
fn padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let (content, _) = bytes.split_at_checked(len)?;
    let behind = len.checked_next_multiple_of(4)?.min(bytes.len());
    Some((content, bytes.get(behind..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::elf::tests::tiny_image;
    use proptest::prelude::*;

    fn note(addresses: [u64; 3], strings: &[u8]) -> Vec<u8> {
        let len = 24 + strings.len() as u32;
        let mut bytes: Vec<u8> = [8, len, 3].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        bytes.extend(OWNER);
        bytes.extend(addresses.iter().flat_map(|address| address.to_le_bytes()));
        bytes.extend(strings);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn notes_follow_each_other_and_others_are_passed() {
        let mut bytes = note([1, 2, 3], b"allocscope\0region_map\08@%rdi 8@%rsi 8@%rdx\0");
        let mut other = note([9, 9, 9], b"libc\0setjmp\0\0");
        other[8] = 1;
        bytes.extend(other);
        bytes.extend(note([4, 5, 6], b"libc\0longjmp\08@%rdi\0"));
        let found: Vec<_> =
            notes(&bytes).map(|note| (note.address, note.base, note.semaphore, note.name)).collect();
        assert_eq!(found, [(1, 2, 3, &b"region_map"[..]), (4, 5, 6, &b"longjmp"[..])]);
    }

    #[test]
    fn torn_notes_end_the_list() {
        let whole = note([1, 2, 3], b"allocscope\0breaker\0\0");
        for len in 0..whole.len() - 3 {
            assert_eq!(notes(&whole[..len]).count(), 0, "{len}");
        }
        let mut huge = whole.clone();
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(notes(&huge).count(), 0);
        assert_eq!(notes(&note([1, 2, 3], b"allocscope\0breaker\0args without end")).count(), 0);
    }

    #[test]
    fn the_probes_of_this_test_are_found_where_they_are() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        let image = Image::parse(&file).unwrap();
        let mut plan = Plan::default();
        add(&image, &mut plan);
        assert!(plan.provider.iter().all(|site| site.id.weight.is_none()));
        assert!(plan.misses.is_empty(), "{:?}", plan.misses);
        let site = plan.provider.iter().find(|site| site.id.event == ProviderEvent::RegionMap).unwrap();
        let at = site.file_offset as usize;
        assert_eq!(file[at], NOP[0]);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(site.called_offset, Some(site.file_offset + 1));
            assert_eq!(file[at + 1..at + 6], NOP5);
        }
        let semaphore = site.semaphore_offset.unwrap() as usize;
        assert_eq!(file[semaphore..semaphore + 2], [0, 0]);
    }

    #[test]
    fn what_the_code_does_not_bear_out_is_not_believed() {
        let file = tiny_image(&[0x90, 0xc3]);
        let image = Image::parse(&file).unwrap();
        let claim = |name, address, arguments| {
            let note = Note { address, base: 0, semaphore: 0, provider: PROVIDER, name, arguments };
            site(&image, None, note, None).err()
        };
        assert_eq!(claim(b"malloc", 0x40_0078, ARGUMENTS_X86_64), Some("its name is not known"));
        assert_eq!(
            claim(b"breaker", 0x50_0000, ARGUMENTS_X86_64),
            Some("it lies outside of the binary's code")
        );
        assert_eq!(
            claim(b"breaker", 0x40_0078, b"-4@%eax"),
            Some("its arguments are not where the provider has them")
        );
        // No unwind table tells where its function begins.
        assert_eq!(claim(b"breaker", 0x40_0078, ARGUMENTS_X86_64), Some("its function is not known"));
    }

    #[test]
    fn each_provider_has_its_own_names() {
        let event = |provider, name| {
            event_of(Note { address: 0, base: 0, semaphore: 0, provider, name, arguments: b"" })
        };
        assert_eq!(event(OTEL, &b"alloc"[..]), Some(ProviderEvent::OtelAlloc));
        assert_eq!(event(OTEL, &b"free"[..]), Some(ProviderEvent::OtelFree));
        assert_eq!(event(PROVIDER, &b"breaker"[..]), Some(ProviderEvent::Breaker));
        for (provider, name) in [(OTEL, &b"otel_alloc"[..]), (OTEL, b"breaker"), (PROVIDER, b"otel_alloc")] {
            assert_eq!(event(provider, name), None, "{name:?}");
        }
    }

    #[test]
    fn a_sample_is_believed_where_its_weight_is_found() {
        let mut file = tiny_image(&[0x90, 0xc3]);
        let claim = |file: &[u8], name, arguments| {
            let image = Image::parse(file).unwrap();
            let note = Note { address: 0x40_0078, base: 0, semaphore: 0, provider: OTEL, name, arguments };
            site(&image, None, note, None).err()
        };
        assert_eq!(claim(&file, b"alloc", b"8@%rdi 8@%rsi"), Some("its arguments are too few"));
        // What no unwind table tells of is not looked at; `free` has an argument that nobody reads.
        assert_eq!(claim(&file, b"alloc", b"8@%rdi 8@%rsi 8@%rdx"), Some("its function is not known"));
        assert_eq!(claim(&file, b"free", b""), Some("its function is not known"));
        // EM_AARCH64
        file[18] = 183;
        let why = Some("its arguments are read on x86-64 only");
        assert_eq!(claim(&file, b"alloc", b"8@x0 8@x1 8@x2"), why);
    }

    proptest! {
        #[test]
        fn any_bytes_are_notes_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(notes(&bytes).count() <= bytes.len() / 12);
        }
    }
}
