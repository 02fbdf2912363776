//! Dashboards as Grafana reads them: their panels, their queries and the queries of their variables.

use std::fs;

use serde_json::Value;

use crate::server::dashboards;

/// What a query stands for, and the query with values in place of Grafana's variables.
pub struct Query {
    pub place: String,
    pub expr: String,
}

/// `label_values(selector, label)` of a variable.
pub struct Variable {
    pub name: String,
    pub selector: String,
    pub label: String,
}

/// Every dashboard of the repository.
pub fn all() -> Vec<Value> {
    let files = fs::read_dir(dashboards()).unwrap().map(|entry| entry.unwrap().path());
    let json = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let all: Vec<_> = json.map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect();
    assert!(!all.is_empty());
    all
}

/// The panels but for rows, with those inside of collapsed rows.
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    let top = dashboard["panels"].as_array().unwrap();
    let inner = top.iter().filter_map(|panel| panel["panels"].as_array()).flatten();
    top.iter().chain(inner).filter(|panel| panel["type"] != "row").collect()
}

/// The queries of a panel; those for one stage once for each.
pub fn queries(panel: &Value) -> Vec<Query> {
    let title = panel["title"].as_str().unwrap();
    let targets = panel["targets"].as_array().unwrap().iter();
    let exprs = targets.map(|target| target["expr"].as_str().unwrap());
    let of_stage = |stage: &'static str| {
        move |expr: &str| Query { place: format!("{title}, {stage}"), expr: substitute(expr, stage) }
    };
    exprs.flat_map(|expr| stages(expr).iter().map(move |stage| of_stage(stage)(expr))).collect()
}

fn stages(expr: &str) -> &'static [&'static str] {
    if expr.contains("$stage") { &["call", "touch", "release"] } else { &["all"] }
}

/// The variables that ask Prometheus.
pub fn variables(dashboard: &Value) -> Vec<Variable> {
    let list = dashboard["templating"]["list"].as_array().unwrap();
    list.iter().filter(|variable| variable["type"] == "query").map(variable).collect()
}

fn variable(variable: &Value) -> Variable {
    let query = variable["query"]["query"].as_str().unwrap();
    let arguments = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
    let (selector, label) = arguments.rsplit_once(", ").unwrap();
    Variable {
        name: variable["name"].as_str().unwrap().to_owned(),
        selector: substitute(selector, "all"),
        label: label.to_owned(),
    }
}

/// As Grafana does: everything selected, the range of a test.
fn substitute(expr: &str, stage: &str) -> String {
    let values = [
        ("$__rate_interval", "10s"),
        ("$__range", "20s"),
        ("$instance", ".*"),
        ("$comm", ".*"),
        ("$pid", ".*"),
        ("$allocator", ".*"),
        ("$stage", stage),
    ];
    let expr = values.iter().fold(expr.to_owned(), |expr, (name, value)| expr.replace(name, value));
    assert!(!expr.contains('$'), "a variable that nothing is known of in {expr}");
    expr
}
