//! Regions against the kernel: what it does, what it refuses, and what Miri can follow.

use super::failing::{Call, Failing};
use super::*;

fn options(system: &'static Failing, huge: HugePages, prefault: bool) -> RegionOptions {
    RegionOptions { huge, prefault, system }
}

fn small(bytes: usize) -> Region {
    Region::reserve(bytes, RegionOptions::default()).unwrap()
}

/// Writes `value` to all that is committed.
fn fill(region: &mut Region, value: u8) {
    let bytes = region.bytes_mut();
    // SAFETY: all of the slice; one call, which Miri does fast.
    unsafe { bytes.as_mut_ptr().write_bytes(value, bytes.len()) };
}

fn read(region: &Region, at: usize) -> u8 {
    assert!(at < region.open_bytes());
    // SAFETY: committed, written by the test.
    unsafe { region.as_ptr().add(at).read_volatile() }
}

#[test]
fn committing_grows_and_keeps_contents() {
    let mut region = small(4 * 4096);
    let page = region.granule();
    assert_eq!(region.bytes_mut().len(), 0);
    region.commit(1).unwrap();
    fill(&mut region, 7);
    region.commit(3 * page).unwrap();
    region.commit(page).unwrap();
    assert_eq!((region.bytes_mut().len(), read(&region, page - 1), read(&region, page)), (3 * page, 7, 0));
    let reserved = region.counters().reserved;
    assert_eq!(region.counters(), RegionCounters { reserved, committed: 3 * page, peak_committed: 3 * page });
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    for bytes in [0, usize::MAX, isize::MAX as usize] {
        let error = Region::reserve(bytes, RegionOptions::default()).unwrap_err();
        assert_eq!((error.step(), error.errno(), error.bytes()), (Step::Size, libc::EINVAL, bytes));
    }
    let mut region = small(4096);
    for bytes in [region.granule() + 1, usize::MAX] {
        let error = region.commit(bytes).unwrap_err();
        assert_eq!((error.step(), error.errno(), error.bytes()), (Step::Commit, libc::EINVAL, bytes));
    }
}

#[test]
fn decommitting_loses_contents_and_counts() {
    let mut region = small(4 * 4096);
    let page = region.granule();
    region.commit(4 * page).unwrap();
    fill(&mut region, 7);
    assert_eq!(region.decommit(page + 1, Advice::DontNeed).unwrap(), 2 * page);
    assert_eq!(region.decommit(2 * page, Advice::DontNeed).unwrap(), 0);
    assert_eq!((region.counters().committed, region.counters().peak_committed), (2 * page, 4 * page));
    region.commit(4 * page).unwrap();
    assert_eq!((read(&region, 2 * page - 1), read(&region, 2 * page)), (7, 0));
    assert_eq!(region.decommit(0, Advice::Free).unwrap(), 4 * page);
    assert_eq!(region.bytes_mut().len(), 0);
    assert_eq!(region.decommit(usize::MAX, Advice::Free).unwrap(), 0);
}

#[test]
fn poison_closes_debug_builds_only_and_keeps_pages() {
    let mut region = small(4096);
    region.commit(4096).unwrap();
    fill(&mut region, 7);
    assert_eq!(region.poison().unwrap(), cfg!(debug_assertions));
    assert_eq!(region.open_bytes() == 0, cfg!(debug_assertions));
    assert_eq!(region.counters().committed, region.granule());
    region.commit(1).unwrap();
    assert_eq!(read(&region, 0), 7);
}

#[test]
fn a_region_may_change_its_thread() {
    let mut region = small(4096);
    region.commit(4096).unwrap();
    let region = std::thread::spawn(move || {
        fill(&mut region, 9);
        region
    });
    assert_eq!(read(&region.join().unwrap(), 0), 9);
}

#[test]
fn a_refused_reservation_is_an_error() {
    static KERNEL: Failing = Failing::new(Call::Map, libc::ENOMEM, 0);
    let error = Region::reserve(8192, options(&KERNEL, HugePages::Never, false)).unwrap_err();
    assert_eq!((error.step(), error.errno(), error.bytes()), (Step::Reserve, libc::ENOMEM, 8192));
    let text = error.to_string();
    assert!(text.starts_with("cannot reserve 8192 bytes: Cannot allocate memory"), "{text}");
    assert!(text.ends_with("raise RLIMIT_AS or vm.max_map_count, or reserve less"), "{text}");
    assert_eq!(KERNEL.mapped.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn a_refused_commit_changes_nothing() {
    static KERNEL: Failing = Failing::new(Call::Open, libc::ENOMEM, 1);
    let mut region = Region::reserve(1 << 16, options(&KERNEL, HugePages::Never, false)).unwrap();
    region.commit(4096).unwrap();
    fill(&mut region, 7);
    let before = region.counters();
    let error = region.commit(1 << 16).unwrap_err();
    assert_eq!((error.step(), error.errno()), (Step::Commit, libc::ENOMEM));
    assert_eq!(
        (region.counters(), region.bytes_mut().len(), read(&region, 0)),
        (before, region.granule(), 7)
    );
    KERNEL.let_pass(1);
    region.commit(1 << 16).unwrap();
    drop(region);
    assert_eq!(KERNEL.mapped.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn a_refused_prefault_undoes_the_commit() {
    static KERNEL: Failing = Failing::new(Call::Advise(Advised::PopulateWrite), libc::ENOMEM, 0);
    let mut region = Region::reserve(1 << 16, options(&KERNEL, HugePages::Never, true)).unwrap();
    let error = region.commit(1 << 16).unwrap_err();
    assert_eq!((error.step(), error.errno(), error.bytes()), (Step::Prefault, libc::ENOMEM, 1 << 16));
    assert_eq!(
        (region.counters().committed, region.counters().peak_committed, region.open_bytes()),
        (0, 0, 0)
    );
    KERNEL.let_pass(1);
    region.commit(1 << 16).unwrap();
}

#[test]
fn what_cannot_be_given_back_stays() {
    static KERNEL: Failing = Failing::new(Call::Advise(Advised::DontNeed), libc::EINVAL, 0);
    let mut region = Region::reserve(1 << 16, options(&KERNEL, HugePages::Never, false)).unwrap();
    region.commit(1 << 16).unwrap();
    fill(&mut region, 7);
    let error = region.decommit(0, Advice::DontNeed).unwrap_err();
    assert_eq!((error.step(), error.errno(), error.bytes()), (Step::Decommit, libc::EINVAL, 1 << 16));
    assert_eq!((region.counters().committed, read(&region, 65535)), (1 << 16, 7));
}

#[cfg(debug_assertions)]
#[test]
fn a_refused_poison_is_an_error() {
    static KERNEL: Failing = Failing::new(Call::Close, libc::ENOMEM, 0);
    let mut region = Region::reserve(4096, options(&KERNEL, HugePages::Never, false)).unwrap();
    region.commit(4096).unwrap();
    let error = region.poison().unwrap_err();
    assert_eq!((error.step(), region.open_bytes()), (Step::Poison, region.granule()));
}

#[test]
fn huge_pages_fall_back_to_the_next_weaker() {
    static KERNEL: Failing = Failing::new(Call::Advise(Advised::Huge), libc::EINVAL, 0);
    let region = Region::reserve(1, options(&KERNEL, HugePages::Transparent, false)).unwrap();
    assert_eq!((region.backing(), region.counters().reserved), (Backing::Small, HUGE_PAGE_BYTES));
    static WITHOUT_EXPLICIT: Failing = Failing::new(Call::Map, libc::ENOMEM, isize::MAX).without_explicit();
    let region = Region::reserve(1, options(&WITHOUT_EXPLICIT, HugePages::Explicit, false)).unwrap();
    let expected = if Kernel.grants_transparent() { Backing::Transparent } else { Backing::Small };
    assert_eq!(region.backing(), expected);
    assert_eq!(region.as_ptr().addr() % HUGE_PAGE_BYTES, 0);
}

#[test]
fn binding_says_what_it_did() {
    static ONE: Failing = Failing::new(Call::Bind, libc::EPERM, 0);
    let mut region = Region::reserve(4096, options(&ONE, HugePages::Never, false)).unwrap();
    assert_eq!(region.bind(0).unwrap(), Binding::OnlyNode);
    let error = region.bind(1).unwrap_err();
    assert_eq!((error.step(), error.errno()), (Step::Bind, libc::EINVAL));
    static TWO: Failing = Failing::new(Call::Bind, libc::EPERM, 0).with_nodes(2);
    let mut region = Region::reserve(4096, options(&TWO, HugePages::Never, false)).unwrap();
    let error = region.bind(1).unwrap_err();
    assert_eq!((error.step(), error.errno()), (Step::Bind, libc::EPERM));
    assert!(error.advice().contains("seccomp"));
}

#[cfg(not(miri))]
#[path = "native_tests.rs"]
mod native;
