//! What only a real kernel shows: faults, page sizes, policies, forks.

use super::*;
use crate::pool::region::failing::{Call, Failing};
use crate::pool::region::observed::{alone, signal_of, signal_of_write, thread_faults};
use std::{fs, process};

/// Runs a test of this module alone.
fn exactly(test: &str, body: impl FnOnce()) {
    alone(&format!("pool::region::tests::native::{test}"), body);
}

/// Page faults of the calling thread, of both kinds, while it writes to each page that is committed.
fn faults_of_touching(region: &Region) -> i64 {
    // The code's own pages are there after this.
    let mut warm = small(4096);
    warm.commit(4096).unwrap();
    thread_faults();
    touch(&warm);
    let before = thread_faults();
    touch(region);
    thread_faults() - before
}

/// Writes a byte to each page that is committed.
fn touch(region: &Region) {
    for at in (0..region.open_bytes()).step_by(4096) {
        // SAFETY: committed.
        unsafe { region.as_ptr().add(at).write_volatile(1) };
    }
}

/// What `/proc/self/smaps` says in bytes under `key` of the mappings within the region.
fn smaps(region: &Region, key: &str) -> usize {
    let (start, end) = (region.as_ptr().addr(), region.as_ptr().addr() + region.counters().reserved);
    let text = fs::read_to_string(format!("/proc/{}/smaps", process::id())).unwrap();
    let mut is_within = false;
    let mut sum = 0;
    for line in text.lines() {
        let head = line.split(' ').next().unwrap();
        if let Some((from, to)) = head.split_once('-') {
            let at = |text| usize::from_str_radix(text, 16).unwrap();
            is_within = at(from) >= start && at(to) <= end;
        } else if is_within && head.strip_suffix(':') == Some(key) {
            sum += line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10;
        }
    }
    sum
}

/// Which pages of the first `bytes` are in memory.
fn resident_pages(region: &Region, bytes: usize) -> usize {
    let mut pages = vec![0_u8; bytes / 4096];
    // SAFETY: the vector has a byte for each page.
    assert_eq!(unsafe { libc::mincore(region.as_ptr().cast(), bytes, pages.as_mut_ptr()) }, 0);
    pages.iter().filter(|page| **page & 1 == 1).count()
}

#[test]
fn guards_and_what_is_not_committed_fault() {
    let mut region = small(2 * 4096);
    region.commit(4096).unwrap();
    let start = region.as_ptr();
    assert_eq!(signal_of_write(start), 0);
    assert_eq!(signal_of_write(start.wrapping_add(4095)), 0);
    assert_eq!(signal_of_write(start.wrapping_sub(1)), libc::SIGSEGV);
    assert_eq!(signal_of_write(start.wrapping_add(4096)), libc::SIGSEGV);
    region.commit(2 * 4096).unwrap();
    assert_eq!(signal_of_write(start.wrapping_add(2 * 4096 - 1)), 0);
    assert_eq!(signal_of_write(start.wrapping_add(2 * 4096)), libc::SIGSEGV);
    region.decommit(4096, Advice::Free).unwrap();
    assert_eq!(signal_of_write(start.wrapping_add(4096)), libc::SIGSEGV);
}

#[test]
fn guards_of_huge_regions_fault() {
    for huge in [HugePages::Transparent, HugePages::Explicit] {
        let mut region = Region::reserve(1, RegionOptions { huge, ..Default::default() }).unwrap();
        region.commit(1).unwrap();
        assert_eq!(signal_of_write(region.as_ptr()), 0, "{huge:?}");
        assert_eq!(signal_of_write(region.as_ptr().wrapping_sub(1)), libc::SIGSEGV, "{huge:?}");
        let end = region.as_ptr().wrapping_add(HUGE_PAGE_BYTES);
        assert_eq!(signal_of_write(end), libc::SIGSEGV, "{huge:?}");
    }
}

#[cfg(debug_assertions)]
#[test]
fn poisoned_memory_faults_until_it_is_committed_again() {
    let mut region = small(4096);
    region.commit(4096).unwrap();
    region.poison().unwrap();
    assert_eq!(signal_of_write(region.as_ptr()), libc::SIGSEGV);
    region.commit(4096).unwrap();
    assert_eq!(signal_of_write(region.as_ptr()), 0);
}

#[test]
fn a_dropped_region_is_unmapped() {
    let mut region = small(64 << 20);
    region.commit(4096).unwrap();
    let start = region.as_ptr();
    drop(region);
    let mut page = 0_u8;
    // SAFETY: the address is only looked up.
    let result = unsafe { libc::mincore(start.cast(), 4096, &raw mut page) };
    assert_eq!((result, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ENOMEM)));
}

#[test]
fn prefaulted_pages_never_fault_and_others_each_do() {
    exactly("prefaulted_pages_never_fault_and_others_each_do", || {
        const BYTES: usize = 256 * 4096;
        for prefault in [false, true] {
            let mut region =
                Region::reserve(BYTES, RegionOptions { prefault, ..Default::default() }).unwrap();
            region.commit(BYTES).unwrap();
            let expected = if prefault { (256, 0) } else { (0, 256) };
            let resident = resident_pages(&region, BYTES);
            assert_eq!((resident, faults_of_touching(&region)), expected, "prefault {prefault}");
            assert_eq!(faults_of_touching(&region), 0);
        }
    });
}

#[test]
fn an_old_kernel_is_prefaulted_by_hand() {
    exactly("an_old_kernel_is_prefaulted_by_hand", || {
        static KERNEL: Failing = Failing::new(Call::Advise(Advised::PopulateWrite), libc::EINVAL, 0);
        let mut region = Region::reserve(1 << 16, options(&KERNEL, HugePages::Never, true)).unwrap();
        region.commit(1 << 16).unwrap();
        assert_eq!((faults_of_touching(&region), region.counters().committed), (0, 1 << 16));
    });
}

#[test]
fn growing_prefaults_only_what_is_new() {
    exactly("growing_prefaults_only_what_is_new", || {
        let mut region =
            Region::reserve(1 << 20, RegionOptions { prefault: true, ..Default::default() }).unwrap();
        for bytes in [1 << 18, 1 << 19, 1 << 20] {
            region.commit(bytes).unwrap();
            assert_eq!(resident_pages(&region, 1 << 20), bytes / 4096);
        }
        region.decommit(1 << 18, Advice::DontNeed).unwrap();
        assert_eq!(resident_pages(&region, 1 << 20), (1 << 18) / 4096);
        region.commit(1 << 19).unwrap();
        assert_eq!(faults_of_touching(&region), 0);
    });
}

#[test]
fn freed_pages_stay_until_the_kernel_wants_them() {
    exactly("freed_pages_stay_until_the_kernel_wants_them", || {
        let mut region = small(1 << 18);
        region.commit(1 << 18).unwrap();
        touch(&region);
        assert_eq!(smaps(&region, "Private_Dirty"), 1 << 18);
        region.decommit(0, Advice::Free).unwrap();
        assert_eq!((resident_pages(&region, 1 << 18), smaps(&region, "Private_Dirty")), (64, 0));
    });
}

#[test]
fn huge_pages_are_what_backing_says() {
    exactly("huge_pages_are_what_backing_says", || {
        const BYTES: usize = 4 * HUGE_PAGE_BYTES;
        for huge in [HugePages::Never, HugePages::Transparent, HugePages::Explicit] {
            let options = RegionOptions { huge, prefault: true, ..Default::default() };
            let mut region = Region::reserve(BYTES, options).unwrap();
            region.commit(BYTES).unwrap();
            let (transparent, explicit) =
                (smaps(&region, "AnonHugePages"), smaps(&region, "Private_Hugetlb"));
            match region.backing() {
                Backing::Small => assert_eq!((transparent, explicit), (0, 0)),
                // The kernel may find no huge page; it gives no other kind then.
                Backing::Transparent => assert_eq!((transparent % HUGE_PAGE_BYTES, explicit), (0, 0)),
                Backing::Explicit => assert_eq!((transparent, explicit), (0, BYTES)),
            }
            assert_eq!(faults_of_touching(&region), 0, "{huge:?}");
            assert!(region.backing() <= strongest(huge), "{huge:?}");
        }
    });
}

fn strongest(huge: HugePages) -> Backing {
    match huge {
        HugePages::Never => Backing::Small,
        HugePages::Transparent => Backing::Transparent,
        HugePages::Explicit => Backing::Explicit,
    }
}

/// Explicit huge pages that the machine has set aside and nobody has taken.
fn explicit_pages_left() -> usize {
    let count = |name| {
        let text = fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}"));
        text.ok().and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(0)
    };
    count("free_hugepages") - count("resv_hugepages")
}

#[test]
fn explicit_huge_pages_are_taken_only_where_all_are_left() {
    exactly("explicit_huge_pages_are_taken_only_where_all_are_left", || {
        let options = RegionOptions { huge: HugePages::Explicit, ..Default::default() };
        let left = explicit_pages_left();
        let most = Region::reserve((left + 1) * HUGE_PAGE_BYTES, options).unwrap();
        assert!(most.backing() < Backing::Explicit);
        let half = Region::reserve(left.div_ceil(2).max(1) * HUGE_PAGE_BYTES, options).unwrap();
        assert_eq!(half.backing() == Backing::Explicit, left > 0);
    });
}

/// Whether a range that is asked for as the region asks gets a huge page: the machine's own answer.
#[test]
fn transparent_huge_pages_are_used_where_the_machine_has_them() {
    exactly("transparent_huge_pages_are_used_where_the_machine_has_them", || {
        const PAGES: usize = 16;
        let options = RegionOptions { huge: HugePages::Transparent, ..Default::default() };
        let mut region = Region::reserve(PAGES * HUGE_PAGE_BYTES, options).unwrap();
        region.commit(PAGES * HUGE_PAGE_BYTES).unwrap();
        let faults = faults_of_touching(&region) as usize;
        let huge = smaps(&region, "AnonHugePages") / HUGE_PAGE_BYTES;
        // Each huge page is one fault, and each of the others 512.
        assert_eq!(faults, huge + (PAGES - huge) * 512);
        assert_eq!(Kernel.grants_transparent(), region.backing() == Backing::Transparent);
    });
}

#[test]
fn a_bound_region_has_its_node_as_policy() {
    const MPOL_F_ADDR: usize = 2;
    const MPOL_BIND: i32 = 2;
    static KERNEL: Failing = Failing::new(Call::Bind, libc::EPERM, isize::MAX).with_nodes(2);
    let mut region = Region::reserve(4096, options(&KERNEL, HugePages::Never, false)).unwrap();
    assert_eq!(region.bind(0).unwrap(), Binding::Bound);
    let (mut mode, mut mask) = (0_i32, [0_u64; 16]);
    // SAFETY: the mask has room for 1024 nodes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            1024_usize,
            region.as_ptr(),
            MPOL_F_ADDR,
        )
    };
    assert_eq!((result, mode, mask[0]), (0, MPOL_BIND, 1));
}

#[test]
fn a_fork_has_a_copy() {
    let mut region = small(4096);
    region.commit(4096).unwrap();
    fill(&mut region, 1);
    let pointer = region.as_ptr();
    // SAFETY: committed; the child's own copy.
    let child = signal_of(|| unsafe { pointer.write_bytes(2, 4096) });
    assert_eq!((child, read(&region, 0)), (0, 1));
    // A child that drops its region takes nothing from the parent.
    let mut given = Some(region);
    let unmapped = signal_of(|| drop(given.take()));
    assert_eq!((unmapped, given.map(|region| read(&region, 0))), (0, Some(1)));
}
