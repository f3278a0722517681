//! Bitswap and CIDs.

use std::{fs, path::Path};

use super::{Check, Lab, content, same, text};
use crate::{Outcome, kubo::Kubo};

pub(super) const CHECKS: &[Check] = &[
    ("a file goes to Kubo and comes back over TCP", |lab| file(lab, "/tcp/")),
    ("a file goes to Kubo and comes back over QUIC", |lab| file(lab, "/quic-v1")),
    ("a tree has the same CID in both, and goes both ways", tree),
    ("a HAMT folder has the same CID in both, and goes both ways with more than 2,000 wants", hamt),
    ("files of Kubo's older profile are read, trickled ones too", older),
    ("a block of 2 MiB goes from Kubo to an agent and on to another Kubo", largest_block),
    ("dag-cbor with links is pinned from Kubo and handed on", dag_cbor),
    ("what Kubo does not have ends in an error that names it", dont_have),
    ("eight fetches at a time from one agent", parallel),
    ("a file goes to Helia and comes from Helia", helia),
];

/// Both programs give `path` the same CID, and each fetches it from the other. Kubo's goes through a second one.
fn both_ways(lab: &Lab, name: &str, path: &Path, transport: &str) -> Outcome {
    let folder = lab.folder(name)?;
    let mut agent = lab.agent_beside(&folder.join("agent"), &lab.kubo, transport)?;
    let cid = agent.add(path, "")?;
    let theirs = lab.kubo.ipfs(&["add", "--only-hash", "-Q", "-r", "--hidden", text(path)?])?;
    if theirs != cid {
        return Err(format!("the agent says {cid}, Kubo {theirs}").into());
    }
    // It pins many blocks at a time, and gets few.
    lab.kubo.ipfs(&["pin", "add", &cid])?;
    lab.kubo.ipfs(&["get", "-o", text(&folder.join("at Kubo"))?, &cid])?;
    same(path, &folder.join("at Kubo"))?;
    drop(agent);
    // A fresh agent has to fetch all of it from Kubo, who has it now.
    let mut agent = lab.agent_beside(&folder.join("fresh"), &lab.kubo, transport)?;
    agent.does(&format!("get {cid} '{}'", folder.join("at the agent").display()))?;
    same(path, &folder.join("at the agent"))
}

fn file(lab: &Lab, transport: &str) -> Outcome {
    let name = if transport == "/tcp/" { "file over TCP" } else { "file over QUIC" };
    let path = lab.folder(name)?.join("file.bin");
    fs::write(&path, content::bytes(name.len() as u64, 20_000_001))?;
    both_ways(lab, name, &path, transport)
}

fn tree(lab: &Lab) -> Outcome {
    let path = lab.folder("tree")?.join("source");
    content::tree(&path)?;
    both_ways(lab, "tree", &path, "/tcp/")
}

fn hamt(lab: &Lab) -> Outcome {
    let path = lab.folder("hamt")?.join("source");
    content::many(&path, 5_000, 600)?;
    both_ways(lab, "hamt", &path, "/tcp/")
}

fn older(lab: &Lab) -> Outcome {
    let folder = lab.folder("older")?;
    let source = folder.join("source");
    content::tree(&source)?;
    let file = source.join("ein Ordner/файл 5.bin");
    let mut agent = lab.agent_beside(&folder.join("agent"), &lab.kubo, "/tcp/")?;
    let (v0, small) = ("--cid-version=0", "--chunker=size-4096");
    let args: [&[&str]; 3] = [
        &["add", "-Q", "-r", v0, "--raw-leaves=false", "--chunker=size-262144", "--max-file-links=174", text(&source)?],
        &["add", "-Q", "--trickle", "--raw-leaves=false", v0, small, text(&file)?],
        &["add", "-Q", "--trickle", small, text(&file)?],
    ];
    for (number, (args, original)) in args.iter().zip([&source, &file, &file]).enumerate() {
        let cid = lab.kubo.ipfs(args)?;
        let to = folder.join(format!("got {number}"));
        agent.does(&format!("get {cid} '{}'", to.display()))?;
        same(original, &to)?;
    }
    Ok(())
}

fn largest_block(lab: &Lab) -> Outcome {
    let folder = lab.folder("largest block")?;
    let path = folder.join("block.bin");
    fs::write(&path, content::bytes(9, 2 << 20))?;
    let cid = lab.kubo.ipfs(&["block", "put", "--allow-big-block", "--cid-codec=raw", text(&path)?])?;
    let home = folder.join("agent");
    let mut agent = lab.agent_beside(&home, &lab.kubo, "/tcp/")?;
    agent.does(&format!("get {cid} '{}'", folder.join("got").display()))?;
    same(&path, &folder.join("got"))?;
    drop(agent);
    let _agent = lab.agent_beside(&home, &lab.second, "/tcp/")?;
    let got = lab.second.ipfs_bytes(&["block", "get", &cid])?;
    if got == fs::read(&path)? { Ok(()) } else { Err("the second Kubo got another block".into()) }
}

fn dag_cbor(lab: &Lab) -> Outcome {
    let folder = lab.folder("dag-cbor")?;
    let put = |kubo: &Kubo, name: &str, json: String| -> Outcome<String> {
        let path = folder.join(name);
        fs::write(&path, json)?;
        kubo.ipfs(&["dag", "put", "--store-codec=dag-cbor", text(&path)?])
    };
    let leaf = put(&lab.kubo, "leaf.json", r#"{"name":"a leaf","numbers":[1,-2,3.5]}"#.into())?;
    let root = put(&lab.kubo, "root.json", format!(r#"{{"leaves":[{{"/":"{leaf}"}}],"n":7}}"#))?;
    let home = folder.join("agent");
    let mut agent = lab.agent_beside(&home, &lab.kubo, "/tcp/")?;
    agent.does(&format!("pin {root}"))?;
    drop(agent);
    let _agent = lab.agent_beside(&home, &lab.second, "/tcp/")?;
    lab.second.ipfs(&["pin", "add", &root])?;
    let read = lab.second.ipfs(&["dag", "get", &format!("{root}/leaves/0/name")])?;
    if read == "\"a leaf\"" { Ok(()) } else { Err(format!("the second Kubo reads {read}").into()) }
}

fn dont_have(lab: &Lab) -> Outcome {
    let folder = lab.folder("dont have")?;
    let path = folder.join("nowhere.bin");
    fs::write(&path, content::bytes(77, 1000))?;
    let cid = lab.kubo.ipfs(&["add", "--only-hash", "-Q", text(&path)?])?;
    let mut agent = lab.agent_beside(&folder.join("agent"), &lab.kubo, "/tcp/")?;
    let answer = agent.ask(&format!("get {cid} '{}' --within 5", folder.join("got").display()))?;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    if answer["error"]["code"] == "not_found" && message.contains(&lab.kubo.peer) {
        Ok(())
    } else {
        Err(format!("it should say who was asked: {answer}").into())
    }
}

fn parallel(lab: &Lab) -> Outcome {
    let folder = lab.folder("parallel")?;
    let mut agent = lab.agent_beside(&folder.join("agent"), &lab.kubo, "/tcp/")?;
    let mut running = Vec::new();
    for number in 0..8 {
        let path = folder.join(format!("{number}.bin"));
        fs::write(&path, content::bytes(100 + number, 3_000_000))?;
        let cid = agent.add(&path, "")?;
        let to = folder.join(format!("{number} at Kubo"));
        running.push((lab.kubo.begin(&["get", "-o", text(&to)?, &cid])?, path, to));
    }
    for (process, path, to) in running {
        while process.line().is_ok() {}
        same(&path, &to)?;
    }
    Ok(())
}

fn helia(lab: &Lab) -> Outcome {
    let folder = lab.folder("helia")?;
    let (ours, theirs) = (folder.join("ours.bin"), folder.join("theirs.bin"));
    fs::write(&ours, content::bytes(5, 7_000_003))?;
    fs::write(&theirs, content::bytes(6, 7_000_003))?;
    let (_serving, addr, cid) = lab.helia.serve(&theirs)?;
    let mut agent = lab.agent(&folder.join("agent"), &[&addr])?;
    let own = agent.add(&ours, "")?;
    lab.helia.get(agent.addr("/tcp/")?, &own, &folder.join("at Helia"))?;
    same(&ours, &folder.join("at Helia"))?;
    agent.does(&format!("get {cid} '{}'", folder.join("at the agent").display()))?;
    same(&theirs, &folder.join("at the agent"))
}
