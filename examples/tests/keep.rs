//! Pinning, collecting and checking by the `agent` program, as its user meets them.
#![allow(clippy::disallowed_methods, reason = "a test of whole processes has no World to take files and time from")]
#![allow(clippy::unwrap_used, reason = "what helps the tests is part of them")]
#![allow(dead_code, reason = "it needs a part of what helps the tests")]

mod process;

use std::{fs, path::Path};

use process::{Process, code};
use serde_json::Value;

fn add(agent: &mut Process, folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    agent.does(&format!("add {}", path.display()))["cid"].as_str().unwrap().to_owned()
}

fn list<'a>(answer: &'a Value, field: &str) -> Vec<&'a Value> {
    answer[field].as_array().unwrap().iter().collect()
}

#[test]
fn what_is_pinned_is_fetched_listed_checked_provided_and_survives_a_kill_and_what_is_unpinned_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut alice = Process::start(&folder.path().join("alice"), &[]);
    let mut bob = Process::start(&folder.path().join("bob"), &["--peer", &alice.addr(), "--capability", "keeping"]);
    alice.finds("keeping", &bob);
    let text: String = (0..200_000).map(|line| format!("a ring of light, {line:06}\n")).collect();
    let ring = add(&mut alice, folder.path(), "ring.txt", &text);
    let sketch = add(&mut bob, folder.path(), "sketch.txt", "a sketch");

    assert_eq!(bob.does(&format!("pin {ring} \"the ring\""))["name"], "the ring");
    let pins = bob.does("pins");
    let of_ring = list(&pins, "pins").into_iter().find(|pin| pin["cid"] == ring.as_str()).unwrap();
    assert_eq!(
        (&of_ring["name"], &of_ring["kind"], &of_ring["state"]),
        (&"the ring".into(), &"recursive".into(), &"complete".into())
    );
    assert!(list(&pins, "pins").iter().any(|pin| pin["cid"] == sketch.as_str() && pin["name"].is_null()), "{pins}");
    assert_eq!(bob.does("gc")["blocks"], 0, "all of it is kept");
    let provided = alice.does(&format!("providers {ring}"));
    assert!(list(&provided, "providers").iter().any(|who| who["peer"] == alice.peer()), "{provided}");

    bob.kill();
    let mut bob = Process::start(&folder.path().join("bob"), &[]);
    let checked = bob.does("verify");
    assert!(list(&checked, "damaged").is_empty() && list(&checked, "missing").is_empty(), "{checked}");
    assert!(checked["blocks"].as_u64() >= Some(5) && checked["pins"] == 2, "{checked}");

    bob.does(&format!("unpin {ring}"));
    assert_eq!(code(&bob.ask(&format!("unpin {ring}"))), "not_found");
    let collected = bob.does("gc");
    assert!(collected["blocks"].as_u64() >= Some(4) && collected["bytes"].as_u64() >= Some(3_200_000), "{collected}");
    assert_eq!(list(&bob.does("pins"), "pins").len(), 1);
    let path = folder.path().join("sketch-again.txt");
    bob.does(&format!("get {sketch} {}", path.display()));
    for wrong in ["pin", "pin nothing", "unpin", "pins all", "gc now", "verify it", "providers"] {
        assert_eq!(code(&bob.ask(wrong)), "usage", "{wrong}");
    }
}
