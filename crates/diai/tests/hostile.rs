//! A peer that writes garbage is cut off; the others are served meanwhile and afterwards.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use common::{HELLO, add, connect, echo, echoing, enter, find, identity, ids, start, until, within};
use diai::{
    Agent, TaskSpec, World,
    blocks::{AddOptions, ContentError, bitswap::Version},
    core::{OpenError, ProtocolId, memory::Sim},
    discovery::RECORD_PROTOCOL,
    messaging::message::SESSION,
};
use futures::{AsyncReadExt, AsyncWriteExt};

/// Bytes that are a message of no protocol here.
fn garbage(kind: usize) -> Vec<u8> {
    match kind {
        // A short frame whose content is an endless varint.
        0 => [vec![12], vec![0xff; 12]].concat(),
        // A frame longer than any protocol allows.
        1 => [vec![0xff, 0xff, 0xff, 0xff, 0x0f], vec![0; 100]].concat(),
        // No frame at all.
        _ => vec![0xff; 100_000],
    }
}

/// Writes garbage on a stream for `protocol` until the other side has had enough.
async fn attack(mallory: &World, bob: &Agent, protocol: ProtocolId, kind: usize) {
    let opened = mallory.network.open(bob.status().peer, &[protocol]).await.unwrap();
    let (mut reader, mut writer) = opened.stream.split();
    // It may be cut off amid the write.
    let _ = writer.write_all(&garbage(kind)).await;
    let _ = writer.close().await;
    let mut answer = Vec::new();
    let _ = reader.read_to_end(&mut answer).await;
}

#[test]
fn garbage_on_any_protocol_cuts_its_sender_off_and_others_are_served() {
    let sim = Sim::new(1);
    sim.run(async {
        let bob = start(&sim, 1, echoing().capability("shop").serve_tasks(true)).await;
        let carol = start(&sim, 2, echoing()).await;
        connect(&carol, &bob).await;
        let wares = add(&bob, vec![5; 600_000]).await;
        let mut protocols = vec![SESSION, RECORD_PROTOCOL];
        protocols.extend(Version::PROTOCOLS);
        let attacks: Vec<_> = protocols.iter().flat_map(|protocol| (0..3).map(|kind| (*protocol, kind))).collect();
        for (number, (protocol, kind)) in attacks.into_iter().enumerate() {
            let identity = identity(&sim, 100 + number as u64);
            let mallory = enter(&sim, &identity);
            attack(&mallory, &bob, protocol, kind).await;
            let network = &bob.world().network;
            until(&bob, &format!("garbage {kind} on {protocol} is punished"), || {
                network.peer(identity.peer()).is_none()
            })
            .await;
            let again = mallory.network.open(bob.status().peer, &[protocol]).await;
            assert!(matches!(again, Err(OpenError::Unreachable { .. })), "{protocol}: {again:?}");
            assert_eq!(echo(&carol, bob.id()).await.unwrap(), "still here");
        }
        assert!(bob.world().network.peer(carol.status().peer).is_some(), "carol did nothing");
        let fetched = carol.blocks().get_bytes(wares, 1 << 20, within(&carol, 30)).await.unwrap();
        assert_eq!(fetched, vec![5; 600_000]);
        assert_eq!(find(&carol, "shop", 1).await, ids([&bob]));
    });
}

#[test]
fn a_peer_that_opens_all_streams_it_may_and_says_nothing_costs_only_itself() {
    let sim = Sim::new(2);
    sim.run(async {
        let bob = start(&sim, 1, echoing().capability("shop").serve_tasks(true)).await;
        let identity = identity(&sim, 100);
        let mallory = enter(&sim, &identity);
        let mut held = Vec::new();
        for protocol in [SESSION, RECORD_PROTOCOL].into_iter().chain(Version::PROTOCOLS) {
            for _ in 0..200 {
                let Ok(mut opened) = mallory.network.open(bob.status().peer, &[protocol]).await else { break };
                // Half a frame on every other one.
                if held.len() % 2 == 0 {
                    let _ = opened.stream.write_all(&[100, 1]).await;
                }
                held.push(opened.stream);
            }
        }
        let carol = start(&sim, 2, echoing()).await;
        connect(&carol, &bob).await;
        let wares = add(&bob, vec![5; 600_000]).await;
        assert_eq!(echo(&carol, bob.id()).await.unwrap(), "still here");
        assert_eq!(carol.blocks().get_bytes(wares, 1 << 20, within(&carol, 30)).await.unwrap(), vec![5; 600_000]);
        assert_eq!(find(&carol, "shop", 1).await, ids([&bob]));
        assert!(held.len() > 200);
        drop(held);
    });
}

#[test]
fn a_stranger_reads_no_sealed_content_through_whoever_may_open_it() {
    let sim = Sim::new(3);
    sim.run(async {
        let bob = start(&sim, 1, echoing().serve_tasks(true)).await;
        let carol = start(&sim, 2, echoing()).await;
        let mallory = start(&sim, 3, echoing()).await;
        connect(&carol, &bob).await;
        connect(&mallory, &bob).await;
        let program = add(&bob, HELLO.to_vec()).await;
        let options = AddOptions::sealed_for(vec![carol.identity().certificate()]);
        let secret = bob.blocks().add_bytes("the secret", options).await.unwrap().cid;
        let spec = TaskSpec::wasm(program).input("secret", secret);
        let through_bob = async |agent: &Agent| agent.tasks().run_on(spec.clone(), vec![bob.id()]).await;
        let refused = through_bob(&mallory).await.unwrap_err();
        assert_eq!(refused.code(), "not_allowed", "{refused}");
        let read = through_bob(&carol).await.unwrap();
        let answer = carol.tasks().content(read.stdout()).await.unwrap();
        assert_eq!(answer, "hello, the secret");
        // Nor what was made of it.
        assert!(bob.blocks().is_sealed(read.stdout().cid).await.unwrap());
        let opened = mallory.blocks().open_sealed(read.stdout().cid, 1 << 20, within(&mallory, 30)).await;
        assert!(matches!(opened, Err(ContentError::Open(_))), "{opened:?}");
        // Nor its own program or input, once Bob himself has run it.
        through_bob(&bob).await.unwrap();
        assert_eq!(through_bob(&mallory).await.unwrap_err().code(), "not_allowed");
    });
}
