//! The `agent` program as its user meets it: processes of their own that talk over loopback, driven line by line.
#![allow(clippy::disallowed_methods, reason = "a test of whole processes has no World to take files and time from")]
#![allow(clippy::unwrap_used, reason = "what helps the tests is part of them")]

mod process;

use std::{fs, path::Path};

use process::{Process, code, fails, guest, texts};
use serde_json::Value;

const NOBODY_HAS: &str = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";

/// Two who know each other: the second is a modeller.
fn pair(folder: &Path) -> (Process, Process) {
    let mut alice = Process::start(&folder.join("alice"), &[]);
    let bob = Process::start(&folder.join("bob"), &["--peer", &alice.addr(), "--capability", "modeling/3d/jewelry"]);
    alice.finds("modeling", &bob);
    (alice, bob)
}

/// A pair, and a third who knows only the first.
fn trio(folder: &Path) -> (Process, Process, Process) {
    let (alice, bob) = pair(folder);
    let mut carol = Process::start(&folder.join("carol"), &["--peer", &alice.addr()]);
    carol.finds("modeling/3d", &bob);
    (alice, bob, carol)
}

fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn out(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn agents_say_who_they_are_and_find_and_talk_to_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (mut alice, mut bob) = pair(folder.path());

    let id = alice.does("id");
    assert_eq!((&id["agent"], &id["addrs"]), (&alice.ready["agent"], &alice.ready["addrs"]));
    assert!(alice.id().starts_with("did:key:"), "{id}");
    assert!(texts(&id["addrs"]).iter().all(|addr| addr.ends_with(&format!("/p2p/{}", alice.peer()))), "{id}");
    let peers = alice.does("peers");
    assert!(peers["peers"].as_array().unwrap().iter().any(|peer| peer["agent"] == bob.ready["agent"]), "{peers}");

    let found = alice.does("find modeling/3d");
    let found = found["agents"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["agent"], bob.ready["agent"]);
    assert!(texts(&found[0]["capabilities"]).contains(&"modeling/3d/jewelry".to_owned()), "{found:?}");
    assert!(alice.does("find market")["agents"].as_array().unwrap().is_empty());

    alice.does(&format!("send {} shall we make a ring, \"you\" and I?", bob.id()));
    let message = bob.event("message");
    assert_eq!(message["from"], alice.ready["agent"]);
    assert_eq!(message["text"], "shall we make a ring, \"you\" and I?");

    assert_eq!(bob.does(&format!("call {} echo who is there", alice.id()))["reply"], "who is there");
    let long = "a line\nand another\n".repeat(20_000);
    let file = write(folder.path(), "long.txt", &long);
    assert_eq!(alice.does(&format!("call {} echo @{file}", bob.id()))["reply"], long);
    assert_eq!(code(&alice.ask(&format!("call {} nothing x", bob.id()))), "refused");

    let status = alice.does("status");
    assert_eq!(status["agent"], alice.ready["agent"]);
    assert!(status["peers"].as_u64() >= Some(1) && status["known_agents"].as_u64() >= Some(1), "{status}");
}

#[test]
fn every_command_line_gets_one_answer_in_its_order_and_a_wrong_one_says_usage() {
    let folder = tempfile::tempdir().unwrap();
    let mut alice = Process::start(&folder.path().join("alice"), &[]);
    let wrong = [
        "fly",
        "id now",
        "find",
        "find a//b",
        "send nobody hello",
        "call",
        "add",
        "add \"open",
        "add a b",
        "get",
        "get nocid out",
        "get nocid out --within soon",
        "run",
        "run a b",
        "run a --fuel much",
        "run a --capability /",
    ];
    for command in wrong {
        alice.tell(command);
        alice.tell("id");
    }
    alice.tell("");
    alice.tell("help");
    for command in wrong {
        let answer = alice.answer();
        assert_eq!(code(&answer), "usage", "{command}: {answer}");
        assert_eq!(alice.answer()["agent"], alice.ready["agent"], "after {command}");
    }
    let help = texts(&alice.answer()["help"]);
    for name in ["id", "peers", "find", "send", "call", "add", "cat", "get", "run", "status", "help", "quit"] {
        assert!(help.iter().any(|line| line.starts_with(name)), "{name} is missing in {help:?}");
    }
    assert_eq!(code(&alice.ask("add /nowhere/at/all")), "file");
    assert_eq!(code(&alice.ask("run /nowhere/at/all.wasm")), "not_found");
    alice.does("quit");
    alice.ends_gracefully();
}

#[test]
fn content_is_for_everybody_or_for_the_named_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (mut alice, mut bob, mut carol) = trio(folder.path());
    let text = "a ring of gold, seven millimetres\n".repeat(50_000);
    let file = write(folder.path(), "idea.txt", &text);

    let open = alice.does(&format!("add {file}"));
    assert_eq!(open["bytes"], text.len());
    let path = out(folder.path(), "open.txt");
    let got = carol.does(&format!("get {} {path}", open["cid"].as_str().unwrap()));
    assert_eq!((&got["path"], &got["bytes"]), (&Value::from(path.as_str()), &open["bytes"]));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    let again = carol.ask(&format!("get {} {path}", open["cid"].as_str().unwrap()));
    assert_eq!(code(&again), "file", "what exists is not replaced: {again}");

    let sealed = alice.does(&format!("add {file} --for {}", bob.id()));
    let cid = sealed["cid"].as_str().unwrap();
    let path = out(folder.path(), "sealed.txt");
    bob.does(&format!("get {cid} {path}"));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(code(&bob.ask(&format!("get {cid} {path}"))), "file", "what exists is not replaced");
    let convergent = format!("add {file} --for {} --convergent", bob.id());
    let (first, again) = (alice.does(&convergent), alice.does(&convergent));
    assert_eq!(first["cid"], again["cid"]);
    let newer = alice.does(&format!("add {file} --replaces {cid}"))["cid"].as_str().unwrap().to_owned();
    let path = out(folder.path(), "newer.txt");
    assert_eq!(code(&bob.ask(&format!("get {newer} {path}"))), "not_allowed", "bob was left out");
    alice.does(&format!("get {newer} {path}"));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(code(&alice.ask(&format!("add {file} --convergent --profile unixfs-v1-2025"))), "usage");

    let stolen = out(folder.path(), "stolen.txt");
    assert_eq!(code(&carol.ask(&format!("get {cid} {stolen}"))), "not_allowed");
    assert!(!Path::new(&stolen).exists());
}

#[test]
fn content_is_looked_at_without_being_written_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let (mut alice, mut bob) = pair(folder.path());
    let ideas = folder.path().join("ideas");
    fs::create_dir(&ideas).unwrap();
    fs::create_dir(ideas.join("drafts")).unwrap();
    write(&ideas, "ring.txt", "gold\n");
    write(&ideas, "large", vec![7; 3 << 20]);
    std::os::unix::fs::symlink("ring.txt", ideas.join("link")).unwrap();
    let ideas = ideas.to_str().unwrap();

    let cid = alice.does(&format!("add {ideas}"))["cid"].as_str().unwrap().to_owned();
    let stat = bob.does(&format!("stat {cid}"));
    assert_eq!((&stat["kind"], &stat["links"], &stat["blocks"]), (&"folder".into(), &4.into(), &6.into()), "{stat}");
    let listed = bob.does(&format!("ls {cid}"));
    let entries = listed["entries"].as_array().unwrap();
    let found: Vec<_> = entries.iter().map(|entry| [&entry["name"], &entry["kind"], &entry["bytes"]]).collect();
    let expected = [
        ["drafts".into(), "folder".into(), Value::from(0)],
        ["large".into(), "file".into(), (3 << 20).into()],
        ["link".into(), "link".into(), 0.into()],
        ["ring.txt".into(), "file".into(), 5.into()],
    ];
    assert_eq!(found, expected.each_ref().map(|entry| entry.each_ref()));
    let ring = entries[3]["cid"].as_str().unwrap();
    assert_eq!(bob.does(&format!("stat {ring}"))["bytes"], 5);
    assert_eq!(code(&bob.ask(&format!("ls {ring}"))), "not_a_folder");

    let large = entries[1]["cid"].as_str().unwrap();
    let part = bob.does(&format!("cat {large} --offset {} --length 5", (2 << 20) - 2));
    assert_eq!((&part["bytes"], &part["text"]), (&5.into(), &"\u{7}".repeat(5).into()), "{part}");
    assert_eq!(bob.does(&format!("cat {ring}"))["text"], "gold\n");
    assert_eq!(code(&bob.ask(&format!("cat {cid}"))), "not_a_file");

    let older = alice.does(&format!("add {ideas} --profile unixfs-v0-2015"));
    assert!(older["cid"].as_str().unwrap().starts_with("Qm"), "{older}");
    assert_eq!(code(&alice.ask(&format!("add {ideas} --profile unixfs-v9"))), "usage");

    let sealed = alice.does(&format!("add {} --for {}", Path::new(ideas).join("ring.txt").display(), bob.id()));
    let sealed = sealed["cid"].as_str().unwrap();
    assert_eq!(bob.does(&format!("stat {sealed}"))["kind"], "sealed");
    assert_eq!(code(&bob.ask(&format!("ls {sealed}"))), "sealed");
}

#[test]
fn content_that_nobody_has_is_not_found_and_the_error_says_who_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (alice, mut bob) = pair(folder.path());
    let path = out(folder.path(), "nothing");
    let answer = bob.ask(&format!("get {NOBODY_HAS} {path} --within 3"));
    assert_eq!(code(&answer), "not_found", "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains(NOBODY_HAS) && message.contains(alice.peer()), "{message}");
    assert!(!Path::new(&path).exists());
}

#[test]
fn content_travels_in_car_files_and_a_damaged_one_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut alice = Process::start(&folder.path().join("alice"), &[]);
    let mut bob = Process::start(&folder.path().join("bob"), &[]);
    let text = "a ring of gold, seven millimetres\n".repeat(100_000);
    let added = alice.does(&format!("add {}", write(folder.path(), "idea.txt", &text)));
    let cid = added["cid"].as_str().unwrap();
    let car = out(folder.path(), "idea.car");

    // They do not know each other: only the file goes over.
    let exported = alice.does(&format!("export {cid} {car}"));
    assert_eq!((&exported["path"], &exported["missing"]), (&Value::from(car.as_str()), &Value::from(0)), "{exported}");
    assert_eq!(exported["blocks"], 5, "four chunks and the node above them: {exported}");
    let imported = bob.does(&format!("import {car}"));
    assert_eq!(texts(&imported["roots"]), [cid], "{imported}");
    assert_eq!((&imported["blocks"], &imported["bytes"]), (&exported["blocks"], &exported["bytes"]), "{imported}");
    let path = out(folder.path(), "idea-again.txt");
    bob.does(&format!("get {cid} {path}"));
    assert_eq!(fs::read_to_string(path).unwrap(), text);

    let again = alice.ask(&format!("export {cid} {car}"));
    assert_eq!(code(&again), "file", "what exists is not replaced: {again}");
    let nothing = out(folder.path(), "nothing.car");
    assert_eq!(code(&alice.ask(&format!("export {NOBODY_HAS} {nothing} --within 1"))), "not_found");
    assert!(!Path::new(&nothing).exists());
    let bytes = fs::read(&car).unwrap();
    let cut = write(folder.path(), "cut.car", &bytes[..bytes.len() - 1]);
    assert_eq!(code(&bob.ask(&format!("import {cut}"))), "invalid_car");
    assert_eq!(code(&bob.ask(&format!("import {nothing}"))), "file");
}

#[test]
fn a_program_runs_at_the_one_who_offers_the_capability_or_here() {
    let folder = tempfile::tempdir().unwrap();
    let (mut alice, bob) = pair(folder.path());
    let input = write(folder.path(), "name.txt", "diAI");
    let hello = guest("hello");
    let there = alice.does(&format!("run {hello} --input {input} --capability modeling"));
    assert_eq!((&there["agent"], &there["stdout"]), (&bob.ready["agent"], &Value::from("hello, diAI")), "{there}");
    let here = alice.does(&format!("run {hello} --capability nobody/can"));
    assert_eq!((&here["agent"], &here["stdout"]), (&alice.ready["agent"], &Value::from("hello, ")), "{here}");
    let path = out(folder.path(), "output");
    alice.does(&format!("get {} {path}", there["cid"].as_str().unwrap()));
    assert_eq!(fs::read_to_string(path).unwrap(), "hello, diAI");
}

#[test]
fn each_way_a_guest_breaks_its_limits_has_its_own_error_code_and_leaves_the_worker_unharmed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut alice, mut bob) = pair(folder.path());
    let garbage = write(folder.path(), "garbage.wasm", "these bytes are no program");
    let broken = [
        (guest("spin"), "--time-limit-s 1 --fuel 1000000000000", "time_limit"),
        (guest("spin"), "--fuel 10000000", "fuel_exhausted"),
        (guest("hog"), "--memory-limit-mib 32", "memory_limit"),
        (guest("flood"), "--output-limit-mib 4", "output_limit"),
        (guest("trap"), "", "trap"),
        (garbage, "", "invalid_program"),
    ];
    for (program, limits, expected) in broken {
        let answer = alice.ask(&format!("run {program} --capability modeling {limits}"));
        assert_eq!(code(&answer), expected, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(bob.id()), "it ran at the worker, not here: {message}");
    }
    let hello = alice.does(&format!("run {} --capability modeling", guest("hello")));
    assert_eq!(hello["agent"], bob.ready["agent"], "the worker goes on");
    bob.does("status");
}

#[test]
fn an_agent_that_was_killed_comes_back_with_its_identity_its_blocks_and_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let (mut alice, mut bob) = pair(folder.path());
    let file = write(folder.path(), "kept.txt", "kept through a crash");
    let cid = bob.does(&format!("add {file}"))["cid"].as_str().unwrap().to_owned();
    let id = bob.id().to_owned();
    bob.kill();
    let mut bob =
        Process::start(&folder.path().join("bob"), &["--peer", &alice.addr(), "--capability", "modeling/3d/jewelry"]);
    assert_eq!(bob.id(), id);
    let kept = out(folder.path(), "kept-here.txt");
    bob.does(&format!("get {cid} {kept}"));
    assert_eq!(fs::read_to_string(kept).unwrap(), "kept through a crash");
    // Under its new address.
    alice.finds("modeling", &bob);
    let fetched = out(folder.path(), "kept-there.txt");
    alice.does(&format!("get {cid} {fetched}"));
    assert_eq!(fs::read_to_string(fetched).unwrap(), "kept through a crash");
    assert_eq!(alice.does(&format!("call {id} echo again"))["reply"], "again");
}

#[test]
fn the_others_still_find_call_fetch_and_run_after_the_contact_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut alice, mut bob, mut carol) = trio(folder.path());
    alice.kill();
    let file = write(folder.path(), "later.txt", "added after the death of the contact");
    let cid = bob.does(&format!("add {file}"))["cid"].as_str().unwrap().to_owned();

    carol.finds("modeling", &bob);
    assert_eq!(carol.does(&format!("call {} echo still there?", bob.id()))["reply"], "still there?");
    let path = out(folder.path(), "fetched.txt");
    carol.does(&format!("get {cid} {path}"));
    assert_eq!(fs::read_to_string(path).unwrap(), "added after the death of the contact");
    let ran = carol.does(&format!("run {} --capability modeling", guest("hello")));
    assert_eq!(ran["agent"], bob.ready["agent"]);
}

#[test]
fn a_signal_and_the_end_of_input_end_an_agent_gracefully() {
    let folder = tempfile::tempdir().unwrap();
    let mut alice = Process::start(&folder.path().join("alice"), &[]);
    alice.close_input();
    alice.ends_gracefully();
    let mut bob = Process::start(&folder.path().join("bob"), &[]);
    bob.terminate();
    bob.ends_gracefully();
}

#[test]
fn an_agent_that_ended_gracefully_is_found_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (mut alice, mut bob) = pair(folder.path());
    bob.does("quit");
    bob.ends_gracefully();
    let found = alice.does("find modeling");
    assert!(found["agents"].as_array().unwrap().is_empty(), "{found}");
}

#[test]
fn an_agent_that_serves_no_tasks_is_given_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut alice = Process::start(&folder.path().join("alice"), &[]);
    let bob = Process::start(
        &folder.path().join("bob"),
        &["--peer", &alice.addr(), "--capability", "modeling", "--serve-tasks", "off"],
    );
    alice.finds("modeling", &bob);
    let ran = alice.does(&format!("run {} --capability modeling", guest("hello")));
    assert_eq!((&ran["agent"], &ran["here"]), (&alice.ready["agent"], &Value::from(true)), "{ran}");
}

#[test]
fn a_folder_opens_for_one_process_with_the_right_passphrase_only() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("alice");
    let mut alice = Process::start_with(&home, &[], Some("open sesame"));
    let id = alice.id().to_owned();
    assert_eq!(fails(&home, Some("open sesame")), "in_use");
    alice.does("quit");
    alice.ends_gracefully();
    assert_eq!(fails(&home, Some("open barley")), "wrong_passphrase");
    assert_eq!(fails(&home, None), "passphrase_needed");
    let alice = Process::start_with(&home, &[], Some("open sesame"));
    assert_eq!(alice.id(), id, "refusals change nothing");

    let plain = folder.path().join("bob");
    drop(Process::start(&plain, &[]));
    assert_eq!(fails(&plain, Some("open sesame")), "not_encrypted");
}
