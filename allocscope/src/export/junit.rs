//! Verdicts into JUnit XML, for whoever collects test results: a test case for each limit, and one for the command.

use super::budget::{Judged, Verdict, figure, outcome};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// The suite's name, and the class of each case.
const NAME: &str = "allocscope.budget";

/// The document. A broken limit is a failure, one that cannot be judged an error.
///
/// # Errors
/// Where a text cannot be written as XML.
pub fn xml(
    judged: &[Judged<'_>],
    command: &str,
    exit_code: u8,
) -> Result<String, quick_junit::SerializeError> {
    let mut suite = TestSuite::new(NAME);
    suite.add_test_case(case(command, of_command(exit_code)));
    suite.add_test_cases(judged.iter().map(|judged| case(&judged.item.text, of_limit(judged))));
    let mut report = Report::new("allocscope");
    report.add_test_suite(suite);
    report.to_string()
}

fn case(name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(NAME);
    case
}

fn of_command(exit_code: u8) -> TestCaseStatus {
    if exit_code == 0 {
        return TestCaseStatus::success();
    }
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(format!("the command failed with exit code {exit_code}"));
    status
}

fn of_limit(judged: &Judged<'_>) -> TestCaseStatus {
    let kind = match judged.verdict {
        Verdict::Within => return TestCaseStatus::success(),
        Verdict::Over => NonSuccessKind::Failure,
        Verdict::Unjudged => NonSuccessKind::Error,
    };
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(format!("{}: {}", figure(judged), outcome(judged)));
    status
}
