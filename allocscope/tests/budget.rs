//! `run --budget` end to end: what is printed, what is written, and how it exits.
#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, which helpers lack")]

mod support;

use nix::libc::SIGTERM;
use serde_json::Value;
use std::path::Path;
use support::{Ended, PROGRAM, Running, TempDir, program};

/// Ten blocks of 1 MiB, of 256 pages each: 2,560 faults in them, and few beside.
const WORKLOAD: &str = "workload map --sizes 1MiB --count 10";

/// `allocscope run --budget BUDGET FLAGS -- COMMAND`.
fn run(budget: &str, flags: &str, command: &[&str]) -> Ended {
    let mut run = program("run --no-follow-children");
    run.args(["--budget", budget]).args(flags.split_whitespace()).arg("--").args(command);
    Running::start(&mut run).wait()
}

fn run_workload(budget: &str, flags: &str) -> Ended {
    let words: Vec<&str> = [PROGRAM].into_iter().chain(WORKLOAD.split_whitespace()).collect();
    run(budget, flags, &words)
}

/// The line of verdicts.
fn verdicts(ended: &Ended) -> Value {
    let line = ended.stdout.lines().find(|line| line.starts_with("{\"verdict\""));
    serde_json::from_str(line.unwrap_or_else(|| panic!("{ended}"))).unwrap()
}

#[test]
fn a_budget_that_is_kept_exits_with_0_and_says_by_how_much() {
    // Beside the ten blocks there are those that the program itself starts with.
    let ended =
        run_workload("large_allocs<100, large_bytes<=1GiB ,faults<1e5,first_touch_max<10s,lost<1", "");
    assert_eq!(ended.code, Some(0), "{ended}");
    let (_, budget) = ended.stdout.split_once("\nBudget\n").unwrap_or_else(|| panic!("{ended}"));
    for item in ["large_allocs<100", "large_bytes<=1GiB", "faults<1e5", "first_touch_max<10s", "lost<1"] {
        let line =
            budget.lines().find(|line| line.contains(item)).unwrap_or_else(|| panic!("{item}: {ended}"));
        assert!(line.ends_with("| within  |"), "{line}");
    }
}

#[test]
fn figures_are_the_runs_own() {
    let budget =
        "large_bytes<1GiB,touched_bytes<1GiB,faults<1e6,release_max<10s,probe_cost<100s,total_time<100s";
    let ended = run_workload(budget, "--format json --min-size 1MiB");
    assert_eq!(ended.code, Some(0), "{ended}");
    let verdicts = verdicts(&ended);
    assert_eq!(verdicts["verdict"], "within", "{ended}");
    let figure = |index: usize| verdicts["budget"][index]["figure"].as_f64().unwrap();
    assert_eq!(figure(0), f64::from(10 << 20), "{ended}");
    assert_eq!(figure(1), f64::from(10 << 20), "{ended}");
    assert!((2_560.0..5_000.0).contains(&figure(2)), "{ended}");
    assert!(figure(3) > 0.0 && figure(4) > 0.0 && figure(5) > figure(3), "{ended}");
}

#[test]
fn a_broken_limit_has_an_exit_code_of_its_own() {
    let ended = run_workload("large_allocs<10,faults<1e6", "--format json");
    assert_eq!(ended.code, Some(120), "{ended}");
    let verdicts = verdicts(&ended);
    assert_eq!(verdicts["verdict"], "over");
    assert_eq!(verdicts["budget"][0]["verdict"], "over");
    assert_eq!(verdicts["budget"][1]["verdict"], "within");
}

/// Nothing of a gigabyte was allocated, so that nothing is known of how long it would take.
#[test]
fn what_was_not_measured_does_not_pass() {
    let ended = run_workload("first_touch_p99<5ms,large_allocs<=0", "--min-size 1GiB");
    assert_eq!(ended.code, Some(121), "{ended}");
    assert!(ended.stdout.contains("cannot be judged: nothing was measured"), "{ended}");
    assert!(ended.stdout.contains("within"), "{ended}");
}

/// A hole in a mapping is a loss: its upper part is no longer followed.
#[test]
fn losses_do_not_pass() {
    let budget = "large_allocs<1e6,lost<1e6,release_max<1ns";
    let command = [PROGRAM, "workload", "remap", "--rounds", "2"];
    let ended = run(budget, "--format json", &command);
    assert_eq!(ended.code, Some(120), "{ended}");
    let verdicts = verdicts(&ended);
    let verdict = |index: usize| verdicts["budget"][index]["verdict"].as_str().unwrap().to_owned();
    assert_eq!([verdict(0), verdict(1), verdict(2)], ["unjudged", "within", "over"], "{ended}");
    assert_eq!(verdicts["budget"][0]["reason"], "tracing lost 2 events or details", "{ended}");
    assert_eq!(run("large_allocs<1e6", "", &command).code, Some(121));
}

#[test]
fn a_command_that_fails_has_its_own_exit_code() {
    let folder = TempDir::new();
    let junit = folder.join("budget.xml");
    let flags = format!("--junit {}", junit.display());
    let ended = run("faults<1", &flags, &["sh", "-c", "exit 3"]);
    assert_eq!(ended.code, Some(3), "{ended}");
    assert!(ended.stdout.contains("| over "), "{ended}");
    let cases = cases(&junit);
    assert_eq!(cases[0], ("sh".to_owned(), "failure", "the command failed with exit code 3".to_owned()));
    let killed = run("faults<1", "", &["sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.code, Some(128 + SIGTERM), "{killed}");
}

/// Name, status and message of each test case; the document's own counts are checked.
fn cases(path: &Path) -> Vec<(String, &'static str, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    let all = document.descendants().filter(|node| node.has_tag_name("testcase"));
    let cases: Vec<_> = all
        .map(|case| {
            assert_eq!(case.attribute("classname"), Some("allocscope.budget"));
            let find = |status| Some((status, case.children().find(|node| node.has_tag_name(status))?));
            let name = case.attribute("name").unwrap().to_owned();
            match find("failure").or_else(|| find("error")) {
                Some((status, node)) => (name, status, node.attribute("message").unwrap().to_owned()),
                None => (name, "success", String::new()),
            }
        })
        .collect();
    let suite = document.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
    for (attribute, status) in [("failures", "failure"), ("errors", "error")] {
        let count = cases.iter().filter(|(_, found, _)| *found == status).count();
        assert_eq!(suite.attribute(attribute), Some(count.to_string().as_str()), "{text}");
    }
    assert_eq!(suite.attribute("tests"), Some(cases.len().to_string().as_str()), "{text}");
    cases
}

#[test]
fn junit_xml_has_a_case_for_the_command_and_each_limit() {
    let folder = TempDir::new();
    let junit = folder.join("budget.xml");
    let budget = "large_allocs<1,faults<1e6,major_faults<=1e6,call_p50<1s";
    let ended = run_workload(budget, &format!("--min-size 1GiB --junit {}", junit.display()));
    assert_eq!(ended.code, Some(121), "{ended}");
    let cases = cases(&junit);
    let told: Vec<_> = cases.iter().map(|(name, status, _)| (name.as_str(), *status)).collect();
    let expected = [
        (PROGRAM, "success"),
        ("large_allocs<1", "success"),
        ("faults<1e6", "success"),
        ("major_faults<=1e6", "success"),
        ("call_p50<1s", "error"),
    ];
    assert_eq!(told, expected);
    assert!(cases[4].2.starts_with("-: cannot be judged: "), "{}", cases[4].2);
}

#[test]
fn what_is_no_budget_is_said_in_a_sentence_and_runs_nothing() {
    let folder = TempDir::new();
    let trace = folder.join("ran");
    let touch = ["touch", trace.to_str().unwrap()];
    for (budget, sentence) in [
        ("first_touch_p99<5", "`first_touch_p99<5`: first_touch_p99 is a time with a unit, such as 5ms"),
        ("speed<5ms", "`speed` is no figure; there are large_allocs, large_bytes, "),
        ("faults=5", "`faults=5` is not a limit: a name, < or <=, and a number are needed"),
        ("", "a name, < or <=, and a number are needed"),
    ] {
        let ended = run(budget, "", &touch);
        assert_eq!(ended.code, Some(2), "{ended}");
        assert!(ended.stderr.contains(sentence), "{ended}");
    }
    let nowhere = format!("--junit {}", folder.join("no/such/folder.xml").display());
    let ended = run("faults<1e9", &nowhere, &touch);
    assert_eq!(ended.code, Some(125), "{ended}");
    assert!(ended.stderr.contains("folder.xml cannot be made"), "{ended}");
    let ended = support::allocscope("run --junit x.xml -- true");
    assert_eq!(ended.code, Some(2), "{ended}");
    assert!(!trace.exists());
}

#[test]
fn help_lists_what_can_be_limited() {
    let ended = support::allocscope("run --help");
    for word in ["first_touch_p50", "release_time", "upper", "120", "121", "--junit <FILE>"] {
        assert!(ended.stdout.contains(word), "{word}: {ended}");
    }
}
