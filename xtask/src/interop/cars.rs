//! CAR files, between our agents, Kubo and Helia.

use std::fs;

use super::{Check, Lab, content, same, text};
use crate::Outcome;

pub(super) const CHECKS: &[Check] = &[
    ("a CAR of Kubo's is imported, HAMT folder and all", from_kubo),
    ("Kubo imports a CAR of ours", to_kubo),
    ("Helia reads a CAR of ours", to_helia),
];

fn from_kubo(lab: &Lab) -> Outcome {
    let folder = lab.folder("CAR from Kubo")?;
    let source = folder.join("source");
    content::many(&source, 4_000, 100)?;
    let cid = lab.kubo.ipfs(&["add", "-Q", "-r", text(&source)?])?;
    let car = folder.join("kubo.car");
    fs::write(&car, lab.kubo.ipfs_bytes(&["dag", "export", &cid])?)?;
    // Connected to nobody: all of it has to be in the file.
    let mut agent = lab.agent(&folder.join("agent"), &[])?;
    let answer = agent.does(&format!("import '{}'", car.display()))?;
    if answer["roots"] != serde_json::json!([cid]) {
        return Err(format!("its root should be {cid}: {answer}").into());
    }
    agent.does(&format!("get {cid} '{}'", folder.join("got").display()))?;
    same(&source, &folder.join("got"))
}

fn to_kubo(lab: &Lab) -> Outcome {
    let folder = lab.folder("CAR to Kubo")?;
    let source = folder.join("source");
    content::tree(&source)?;
    let mut agent = lab.agent(&folder.join("agent"), &[])?;
    let cid = agent.add(&source, "")?;
    let car = folder.join("ours.car");
    agent.does(&format!("export {cid} '{}'", car.display()))?;
    let said = lab.second.ipfs(&["dag", "import", text(&car)?])?;
    if !said.contains(&cid) {
        return Err(format!("Kubo should pin {cid}: {said}").into());
    }
    lab.second.ipfs(&["get", "-o", text(&folder.join("got"))?, &cid])?;
    same(&source, &folder.join("got"))
}

fn to_helia(lab: &Lab) -> Outcome {
    let folder = lab.folder("CAR to Helia")?;
    let source = folder.join("source.bin");
    fs::write(&source, content::bytes(8, 3_000_000))?;
    let mut agent = lab.agent(&folder.join("agent"), &[])?;
    let cid = agent.add(&source, "")?;
    let car = folder.join("ours.car");
    agent.does(&format!("export {cid} '{}'", car.display()))?;
    lab.helia.read_car(&car, &folder.join("got"))?;
    same(&source, &folder.join("got"))
}
