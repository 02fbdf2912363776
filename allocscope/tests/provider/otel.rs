//! What programs sample of their own allocations, told by the probes of `otel_memory`, against what they know of it.
//!
//! `native/sampled.c` tells the weight of a sample in every register, in memory by several of them, and as a constant.

use super::*;

/// Its probes: one for each place of a weight, those of weights that cannot be read, one for `free`.
const PLACES: u64 = 27;
const ODD_PLACES: u64 = 3;
const SITES: usize = PLACES as usize + ODD_PLACES as usize + 1;
const THREADS: u64 = 3;
const ROUNDS: u64 = 7;

fn sampled(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.args([THREADS.to_string(), ROUNDS.to_string()]);
    command
}

fn traced(command: &mut Command, flags: &str) -> (Truth, Report) {
    let target = waiting(command);
    let tracer = attach(target.pid(), flags);
    finish(target, tracer)
}

/// Each sample is told once, with its weight; and is an allocation of nobody.
fn assert_are_told(truth: &Truth, report: &Report, allocs: u64, frees: u64) {
    let process = report.process(truth.pid());
    let weight = truth.0["told"]["otel_alloc"]["bytes"].as_u64().unwrap();
    let told = [("otel_alloc", allocs, allocs, weight), ("otel_free", frees, frees, 0)];
    assert_eq!(truth.told(), told, "{}", truth.0);
    assert_eq!(of_probe(process, "otel_alloc"), (allocs, Some(weight)), "{report}");
    assert_eq!(of_probe(process, "otel_free"), (frees, None), "{report}");
    let rows = process.0["provider"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["seconds"].is_null() && row["max_seconds"].is_null()), "{report}");
    assert!(process.classes("pool").is_empty() && process.classes("glibc").is_empty(), "{report}");
    assert_eq!(process.0["cost"]["hits"]["uprobe_emulated"].as_u64(), Some(allocs + frees), "{report}");
}

#[test]
fn samples_and_their_weights_are_the_programs_own_on_every_rung() {
    let dir = TempDir::new();
    let path = dir.copy(programs::sampled().to_str().unwrap(), "sampled");
    for flags in ["", "--attach-via session", "--attach-via multi", "--attach-via perf"] {
        let (truth, report) = traced(&mut sampled(&path), flags);
        assert_are_told(&truth, &report, THREADS * ROUNDS * PLACES, THREADS * ROUNDS);
        assert_eq!(report.losses(), [], "{flags}: {report}");
        assert!(
            report.process(truth.pid()).0["coverage"]["misses"].as_array().unwrap().is_empty(),
            "{report}"
        );
    }
}

#[test]
fn samples_of_a_library_that_is_loaded_later_are_told() {
    let dir = TempDir::new();
    // An allocator's, by its name, is examined as one.
    for (name, filter) in
        [("libsampled.so", "never"), ("libsampled.so", "early"), ("libjemalloc.so.2", "never")]
    {
        let library = own_library(&dir, &programs::sampled_library(), name);
        let target = waiting(Command::new(programs::host()).arg(&library).arg(filter));
        let tracer = attach(target.pid(), "");
        let (truth, report) = finish_host(target, tracer, &library);
        // `host.c`: two threads, three rounds.
        assert_are_told(&truth, &report, 2 * 3 * PLACES, 2 * 3);
        assert_eq!(report.losses(), [], "{report}");
    }
}

/// A weight that is in no memory, below 0, or more than anybody has: the sample is counted, and the loss of its weight.
#[test]
fn weights_that_cannot_be_read_are_a_loss() {
    let (truth, report) = traced(sampled(&programs::sampled()).arg("odd"), "");
    let samples = THREADS * ROUNDS * ODD_PLACES;
    assert_are_told(&truth, &report, samples, THREADS * ROUNDS);
    assert_eq!(truth.0["told"]["otel_alloc"]["bytes"], 0, "{}", truth.0);
    assert_eq!(report.losses(), [("result_unreadable".to_owned(), samples)], "{report}");
}

#[test]
fn semaphores_of_samples_are_raised_for_as_long_as_somebody_listens() {
    let dir = TempDir::new();
    let path = dir.copy(programs::sampled().to_str().unwrap(), "sampled");
    for (flags, signal) in
        [("", Signal::SIGINT), ("--attach-via multi", Signal::SIGKILL), ("--attach-via perf", Signal::SIGINT)]
    {
        let target = waiting(&mut sampled(&path));
        let places = Places::of(target.pid(), &path);
        assert_eq!((places.semaphores.len(), places.is_as_built()), (SITES, true));
        let tracer = attach(target.pid(), flags);
        assert!(places.listeners().iter().all(|&count| count > 0), "{flags}: {:?}", places.listeners());
        tracer.signal(signal);
        tracer.wait();
        assert!(eventually(LIMIT, || places.is_as_built()), "{flags}, {signal}: {:?}", places.listeners());
    }
}

/// The notes of a binary: where the words of each are, and its strings.
fn notes(bytes: &[u8]) -> Vec<(usize, usize)> {
    let begins = |at: &usize| bytes[*at..].starts_with(b"stapsdt\0");
    let words = (0..bytes.len()).filter(begins).map(|at| at + 8);
    words.filter(|at| bytes[at + 24..].starts_with(b"otel_memory\0")).map(|at| (at, at + 24)).collect()
}

/// Writes a lie into every note.
fn lying(lie: impl Fn(&mut [u8], usize, usize)) -> Vec<u8> {
    let mut bytes = std::fs::read(programs::sampled()).unwrap();
    let notes = notes(&bytes);
    assert_eq!(notes.len(), SITES);
    notes.into_iter().for_each(|(words, strings)| lie(&mut bytes, words, strings));
    bytes
}

fn set(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What a program's notes claim falsely is told, by the probe's name, and its code and data stay as they are.
#[test]
fn notes_that_lie_are_missed_and_nothing_is_attached() {
    let in_name = b"otel_memory\0fre".len() - 1;
    let lies = [
        (
            "it lies outside of the binary's code",
            lying(|bytes, words, _| set(bytes, words, 0x7fff_ffff_f000)),
        ),
        ("it lies outside of the binary's code", lying(|bytes, words, _| set(bytes, words, u64::MAX))),
        ("no nop of 1 byte begins there", {
            lying(|bytes, words, _| set(bytes, words, word(bytes, words) + 1))
        }),
        ("its semaphore is not in writable data", {
            lying(|bytes, words, _| set(bytes, words + 16, word(bytes, words)))
        }),
        ("its semaphore is not in writable data", lying(|bytes, words, _| set(bytes, words + 16, 1 << 62))),
        ("its name is not known", lying(|bytes, _, strings| bytes[strings + in_name] ^= 1)),
    ];
    for (why, bytes) in lies {
        assert_lie_is_seen(&bytes, why, SITES);
    }
    // What `free` has for an argument is nobody's concern.
    let arguments = lying(|bytes, _, strings| {
        let alloc = b"otel_memory\0alloc\0".len();
        if bytes[strings + 12..].starts_with(b"alloc") {
            bytes[strings + alloc..strings + alloc + 6].copy_from_slice(b"%xmm0\0");
        } else {
            bytes[strings + 12..strings + 16].copy_from_slice(b"none");
        }
    });
    let plan = examine(&arguments, &Request::default()).unwrap().plan;
    let few = plan.misses.iter().filter(|miss| miss.detail.ends_with("its arguments are too few")).count();
    assert_eq!((plan.provider.len(), few), (0, SITES - 1), "{:?}", plan.misses);
}

fn assert_lie_is_seen(bytes: &[u8], why: &str, count: usize) {
    let dir = TempDir::new();
    let path = dir.copy(programs::sampled().to_str().unwrap(), "sampled");
    std::fs::write(&path, bytes).unwrap();
    let (truth, report) = traced(&mut sampled(&path), "");
    assert!(truth.told().iter().all(|&(_, _, heard, _)| heard == 0), "{why}: {}", truth.0);
    let process = report.process(truth.pid());
    assert_eq!(["otel_alloc", "otel_free"].map(|name| of_probe(process, name)), [(0, None); 2], "{report}");
    let misses = process.0["coverage"]["misses"].as_array().unwrap();
    let details = misses.iter().map(|miss| miss["detail"].as_str().unwrap());
    let told = details.filter(|text| text.starts_with("the probe otel_memory:") && text.ends_with(why));
    assert_eq!(told.count(), count, "{why}: {report}");
}

/// Equal functions that the linker has made one have one probe; what else claims its place has none.
#[test]
fn a_place_is_probed_once() {
    let mut bytes = std::fs::read(programs::sampled()).unwrap();
    let found = notes(&bytes);
    let of = |number: usize| word(&bytes, found[number].0);
    let (first, second) = (of(0), of(1));
    set(&mut bytes, found[1].0, first);
    let plan = examine(&bytes, &Request::default()).unwrap().plan;
    assert_eq!(plan.provider.len(), SITES - 1);
    assert_eq!(plan.misses.len(), 1);
    assert!(plan.misses[0].detail.ends_with("another one is in its place"), "{:?}", plan.misses);
    set(&mut bytes, found[1].0, second);
    // Two that say the same: the first one's words and strings, which are as long.
    let (from, to) = (found[0].0, found[1].0);
    bytes.copy_within(from..from + 24 + b"otel_memory\0alloc\08@%rdi 8@$64 8@%rax".len(), to);
    let plan = examine(&bytes, &Request::default()).unwrap().plan;
    assert_eq!((plan.provider.len(), plan.misses.len()), (SITES - 1, 0), "{:?}", plan.misses);
}

/// As [`damaged_notes_are_survived`]: what is damaged here are the arguments.
#[test]
fn damaged_arguments_are_survived() {
    let bytes = std::fs::read(programs::sampled()).unwrap();
    let found = notes(&bytes);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |end: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) % end
    };
    let texts: [&[u8]; 6] = [b"8@$-1", b"(%rip)", b"8@9999999999(%rsp)", b"@@@", b"-", b"\xff\xff"];
    let mut outcomes = [0; 2];
    for _ in 0..200 {
        let mut mutant = bytes.clone();
        for _ in 0..=random(40) {
            let (_, strings) = found[random(found.len() as u64) as usize];
            let (at, text) = (strings + 18 + random(20) as usize, texts[random(6) as usize]);
            mutant[at..at + text.len()].copy_from_slice(text);
        }
        let plan = examine(&mutant, &Request::default()).unwrap().plan;
        assert_is_borne_out(&plan, &mutant);
        outcomes[0] += plan.provider.len();
        outcomes[1] += plan.misses.len();
    }
    // Some were hit where they are not read.
    assert!(outcomes.iter().all(|&count| count > 200), "{outcomes:?}");
}

/// A probe of samples is priced by itself: a large allocation that is not sampled passes none.
#[test]
fn inspect_tells_the_sites_of_samples_and_that_others_pay_nothing() {
    let path = programs::sampled();
    let ended = allocscope(&format!("inspect --format json {}", path.display()));
    assert_eq!(ended.code, Some(0), "{ended}");
    let view: Value = serde_json::from_str(&ended.stdout).unwrap();
    let sites = view["sites"].as_array().unwrap();
    let of = |name: &str| sites.iter().filter(|site| site["function"] == name).count();
    assert_eq!((of("otel_alloc"), of("otel_free"), sites.len()), (SITES - 1, 1, SITES), "{view}");
    let is_priced = |site: &Value| site["class"] == "emulated" && site["predicted_ns"].as_f64() > Some(0.0);
    assert!(sites.iter().all(is_priced), "{view}");
    assert_eq!(view["cost"]["large_ns"].as_f64(), Some(0.0), "{view}");
}
