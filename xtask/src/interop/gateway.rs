//! HTTP gateways: ours, and Kubo's.

use std::fs;

use super::{Check, KUBO_PORT, Lab, content, same, text};
use crate::Outcome;

pub(super) const CHECKS: &[Check] = &[
    ("Helia's verified-fetch reads files from our gateway, by paths", to_helia),
    ("an agent that knows nobody fetches from the gateway of Kubo", from_kubo),
    ("an agent that knows nobody fetches from ours", from_us),
];

fn to_helia(lab: &Lab) -> Outcome {
    let folder = lab.folder("gateway to Helia")?;
    let (tree, many) = (folder.join("tree"), folder.join("many"));
    content::tree(&tree)?;
    content::many(&many, 4_000, 100)?;
    let mut agent = lab.lonely_agent(&folder.join("agent"), &["--serve-gateway", "127.0.0.1:0"])?;
    let (tree_cid, many_cid) = (agent.add(&tree, "")?, agent.add(&many, "")?);
    let files = [
        (&tree, &tree_cid, "ein Ordner/файл 5.bin"),
        (&tree, &tree_cid, "empty"),
        (&many, &many_cid, "a file with a rather long name, number 003999.bin"),
    ];
    for (number, (root, cid, name)) in files.into_iter().enumerate() {
        let got = folder.join(format!("got {number}"));
        lab.helia.verified_fetch(agent.gateway()?, &format!("/ipfs/{cid}/{name}"), &got)?;
        same(&root.join(name), &got)?;
    }
    Ok(())
}

fn from_kubo(lab: &Lab) -> Outcome {
    let folder = lab.folder("gateway of Kubo")?;
    let source = folder.join("source");
    content::many(&source, 4_000, 100)?;
    fs::write(source.join("large"), content::bytes(9, 20_000_000))?;
    let cid = lab.kubo.ipfs(&["add", "-Q", "-r", text(&source)?])?;
    let gateway = format!("http://127.0.0.1:{}", KUBO_PORT + 2);
    let mut agent = lab.lonely_agent(&folder.join("agent"), &["--gateway", &gateway])?;
    agent.does(&format!("get {cid} '{}'", folder.join("got").display()))?;
    same(&source, &folder.join("got"))
}

fn from_us(lab: &Lab) -> Outcome {
    let folder = lab.folder("gateway of ours")?;
    let source = folder.join("source");
    content::tree(&source)?;
    let mut alice = lab.lonely_agent(&folder.join("alice"), &["--serve-gateway", "127.0.0.1:0"])?;
    let cid = alice.add(&source, "")?;
    let mut bob = lab.lonely_agent(&folder.join("bob"), &["--gateway", alice.gateway()?])?;
    bob.does(&format!("get {cid} '{}'", folder.join("got").display()))?;
    same(&source, &folder.join("got"))
}
