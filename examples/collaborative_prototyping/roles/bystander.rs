//! A bystander serves the network and is granted nothing. He fetches what the others made, and looks.

use std::{pin::pin, time::Duration};

use diai::{
    Agent, AgentBuilder, Cid, StreamExt,
    blocks::{FetchOptions, unixfs},
};

use super::{Outcome, enter};
use crate::link::{Link, Order, Tell};

const WITHIN: Duration = Duration::from_secs(30);
const MAX_ENTRIES: usize = 10_000;
const MAX_BYTES: u64 = 64 << 20;
/// What the plain files would show: a picture, a chart, the names and words of the idea.
/// Long enough not to stand in random bytes by chance.
const TELLTALES: [&[u8]; 6] =
    [b"\x89PNG\r\n\x1a\n", b"<svg xmlns", b"model.stl", b"suggestions", b"finger = ", b"participant"];

pub(crate) async fn play(builder: AgentBuilder, link: &Link, alone: bool) -> Outcome {
    let agent = builder.start().await?;
    enter(&agent, link, alone).await?;
    link.tell(Tell::Joined);
    loop {
        match link.order().await {
            Order::Peek { root } => {
                let (attempts, secret) = peek(&agent, root.parse()?).await?;
                link.tell(Tell::Peeked { attempts, secret });
            }
            Order::End => break,
            _ => {}
        }
    }
    agent.shutdown().await;
    Ok(())
}

/// Fetches everything under `root` and tries to read it. Returns what came of it, and whether all stayed secret.
async fn peek(agent: &Agent, root: Cid) -> Outcome<(Vec<String>, bool)> {
    let blocks = agent.blocks();
    let deadline = agent.world().clock.now() + WITHIN;
    // What comes is cached only, and looked at afterwards.
    let _guard = blocks.store().guard_root(root);
    let fetched = blocks.fetch(root, &FetchOptions::until(deadline)).await?;
    let mut attempts = vec![format!("fetched all {} blocks of the workspace, {} bytes", fetched.blocks, fetched.bytes)];

    let entries = unixfs::entries(blocks.store(), root, MAX_ENTRIES).await?;
    let opaque = |name: &str| name.trim_start_matches("h-").bytes().all(|byte| byte.is_ascii_hexdigit());
    let hidden = entries.iter().all(|entry| opaque(&entry.name));
    let example = entries.first().map_or_else(String::new, |entry| entry.name.clone());
    attempts.push(format!("sees {} names such as {example}, and not what they stand for", entries.len()));

    let (mut sealed, mut refused, mut reason) = (0, 0, String::new());
    for entry in &entries {
        if blocks.is_sealed(entry.cid).await? {
            sealed += 1;
            if let Err(error) = blocks.open_sealed(entry.cid, MAX_BYTES, deadline).await {
                refused += 1;
                reason = error.to_string();
            }
        }
    }
    attempts.push(format!("tried to open {sealed} sealed parts and opened {}: {reason}", sealed - refused));

    let mut telltales = 0;
    let options = unixfs::WalkOptions::default();
    let mut walk = pin!(unixfs::walk(blocks.store(), root, &options));
    while let Some(visited) = walk.next().await {
        let data = blocks.get_block(visited?.cid, deadline).await?;
        telltales += TELLTALES.iter().filter(|&&word| data.windows(word.len()).any(|window| window == word)).count();
    }
    attempts.push(format!("searched every byte for names and marks of the files and found {telltales}"));
    Ok((attempts, hidden && sealed > 0 && refused == sealed && telltales == 0))
}
