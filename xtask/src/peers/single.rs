//! One small file that nobody asked for before, from a peer that is connected.

use std::fs;

use super::{Contender, Lab, Outcome, Row, many, tcp, text, timed};

const FILES: usize = 200;

pub(super) fn run(lab: &Lab) -> Outcome<Vec<Row>> {
    let folder = lab.folder("single")?;
    let path = folder.join("files");
    many::files(&path, FILES)?;
    let mut agent = lab.agent(&folder.join("agent"), None)?;
    let kubo = lab.kubo(&folder.join("kubo"), None)?;
    let mut cids = Vec::new();
    for entry in fs::read_dir(&path)? {
        let file = entry?.path();
        cids.push(agent.add(&file, "")?);
        kubo.ipfs(&["add", "-Q", text(&file)?])?;
    }
    let (addr, peer) = (agent.addr("/tcp/")?.to_owned(), agent.peer().to_owned());
    let agent_id = agent.does("id")?["agent"].as_str().ok_or("the agent does not say who it is")?.to_owned();
    let blobs = lab.bare.serve_blobs(&path, &folder.join("iroh"))?;
    let contenders: [Contender<'_>; 4] = [
        (
            "agent",
            Box::new(|home| {
                let mut fetcher = lab.agent(&home.join("agent"), Some((&addr, &peer)))?;
                median(cids.iter().map(|cid| {
                    let command = format!("get {cid} '{}'", home.join(cid).display());
                    timed(|| fetcher.does(&command))
                }))
            }),
        ),
        (
            "call of an agent",
            Box::new(|home| {
                let mut caller = lab.agent(&home.join("agent"), Some((&addr, &peer)))?;
                let command = format!("call {agent_id} echo hello");
                caller.does(&command)?;
                median(cids.iter().map(|_| timed(|| caller.does(&command))))
            }),
        ),
        (
            "Kubo",
            Box::new(|home| {
                let fetcher = lab.kubo(&home.join("kubo"), Some(tcp(&kubo.addrs)?))?;
                let http = ureq::Agent::new_with_defaults();
                median(cids.iter().map(|cid| {
                    let url = format!("{}/cat?arg={cid}", fetcher.api);
                    timed(|| Ok(http.post(&url).send_empty()?.body_mut().read_to_vec()?))
                }))
            }),
        ),
        ("iroh-blobs", Box::new(|home| lab.bare.fetch_each_blob(&blobs, &home.join("store")))),
    ];
    let [ours, call, kubos, iroh] = lab.by_turns(contenders)?;
    let over = ours.faster_than(&kubos);
    let ms = |times: &super::Times| format!("{:.2} ms", times.median() * 1e3);
    Ok(vec![Row {
        what: "one cold file of 4 KiB from a connected peer, p50".into(),
        ours: ms(&ours),
        others: format!(
            "Kubo {}, iroh-blobs {}; a call of the same agent by the same program {}",
            ms(&kubos),
            ms(&iroh),
            ms(&call)
        ),
        ratio: format!("1/{over:.0} of Kubo, {:.1}x the call", call.faster_than(&ours)),
        bar: "1/10 of Kubo",
        met: over >= 10.0,
    }])
}

fn median(times: impl Iterator<Item = Outcome<f64>>) -> Outcome<f64> {
    let mut times: Vec<f64> = times.collect::<Outcome<_>>()?;
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().ok_or_else(|| "nothing was measured".into())
}
