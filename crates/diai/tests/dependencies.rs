//! Dependencies between the crates point one way. This list is the architecture; change it on purpose or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// Each crate and what of the workspace it may depend on (normal and build dependencies).
const ALLOWED: &[(&str, &[&str])] = &[
    ("diai-core", &[]),
    ("diai-identity", &["diai-core"]),
    ("diai-net", &["diai-core", "diai-identity"]),
    ("diai-discovery", &["diai-core", "diai-identity"]),
    ("diai-messaging", &["diai-core", "diai-identity"]),
    ("diai-blocks", &["diai-core", "diai-identity"]),
    ("diai-tasks", &["diai-core", "diai-identity"]),
    (
        "diai",
        &["diai-blocks", "diai-core", "diai-discovery", "diai-identity", "diai-messaging", "diai-net", "diai-tasks"],
    ),
];

fn metadata() -> serde_json::Value {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path", manifest])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

fn text<'a>(value: &'a serde_json::Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The dependencies of each package: (name, kind, whether it is by path).
fn dependencies(metadata: &serde_json::Value) -> BTreeMap<String, Vec<(String, String, bool)>> {
    let packages = metadata["packages"].as_array().expect("packages");
    let edges = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().expect("dependencies");
        all.iter().map(|one| (text(one, "name").into(), text(one, "kind").into(), text(one, "req") == "*")).collect()
    };
    packages.iter().map(|package| (text(package, "name").into(), edges(package))).collect()
}

#[test]
fn crates_depend_on_nothing_of_the_workspace_but_what_the_list_allows() {
    let all = dependencies(&metadata());
    for (name, allowed) in ALLOWED {
        let found: BTreeSet<_> = all[*name]
            .iter()
            .filter(|(dependency, kind, _)| dependency.starts_with("diai") && kind != "dev")
            .map(|(dependency, _, _)| dependency.as_str())
            .collect();
        assert_eq!(found, allowed.iter().copied().collect(), "{name}");
    }
    let listed: BTreeSet<_> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let crates: BTreeSet<_> = all
        .keys()
        .map(String::as_str)
        .filter(|name| !matches!(*name, "diai-examples" | "diai-benches" | "xtask"))
        .collect();
    assert_eq!(crates, listed, "a crate that is not in the list");
}

#[test]
fn only_diai_net_knows_libp2p_and_no_protocol_crate_has_a_swarm() {
    for (name, edges) in dependencies(&metadata()) {
        for (dependency, kind, _) in edges {
            let network =
                dependency == "libp2p" || dependency.starts_with("libp2p-") && dependency != "libp2p-identity";
            let allowed =
                matches!(name.as_str(), "diai-net" | "diai-examples" | "diai-benches" | "xtask") || kind == "dev";
            assert!(!network || allowed, "{name} depends on {dependency}");
        }
    }
}

#[test]
fn dev_dependencies_inside_the_workspace_are_by_path_only() {
    for (name, edges) in dependencies(&metadata()) {
        for (dependency, kind, any_version) in edges {
            let inside = dependency.starts_with("diai") && kind == "dev";
            assert!(!inside || any_version, "{name}: the dev-dependency {dependency} names a version");
        }
    }
}
