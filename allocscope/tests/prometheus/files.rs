//! The files of `dashboards/`, as far as they can be judged without anything running but promtool.

use std::collections::BTreeSet;
use std::process::Command;

use ::allocscope::export::names;
use serde_json::Value;

use crate::dashboard::{all, panels, queries, variables};
use crate::server::{dashboards, tool};

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    for arguments in [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]] {
        let output =
            Command::new(tool("promtool")).args(arguments).current_dir(dashboards()).output().unwrap();
        assert!(output.status.success(), "promtool {arguments:?}: {output:?}");
    }
}

#[test]
fn every_alert_has_a_unit_test() {
    let read = |name| std::fs::read_to_string(dashboards().join(name)).unwrap();
    let (rules, tests) = (read("rules.yml"), read("rules_test.yml"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert}");
    }
}

#[test]
fn panels_say_how_to_read_them_and_where_they_are() {
    for dashboard in all() {
        let panels = panels(&dashboard);
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "two panels with one id");
        for panel in &panels {
            assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{panel}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
            for other in &panels {
                assert!(panel["id"] == other["id"] || !overlap(panel, other), "{panel}\n{other}");
            }
        }
    }
}

fn overlap(a: &Value, b: &Value) -> bool {
    let side = |panel: &Value, name: &str| panel["gridPos"][name].as_u64().unwrap();
    let along = |start: &str, length: &str| {
        side(a, start) < side(b, start) + side(b, length) && side(b, start) < side(a, start) + side(a, length)
    };
    assert!(side(a, "x") + side(a, "w") <= 24, "{a}");
    along("x", "w") && along("y", "h")
}

/// A family that no panel shows is either missing there or not worth exporting.
#[test]
fn every_family_is_on_a_dashboard() {
    let mut exprs = String::new();
    for dashboard in all() {
        exprs.extend(panels(&dashboard).into_iter().flat_map(queries).map(|query| query.expr + "\n"));
        exprs.extend(variables(&dashboard).into_iter().map(|variable| variable.selector + "\n"));
    }
    // Whether a process runs is not worth a panel: its series end with it.
    for family in names::ALL.iter().filter(|family| family.name != names::PROCESS_UP.name) {
        assert!(exprs.contains(family.name), "{}", family.name);
    }
}
