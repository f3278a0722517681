//! Workspaces of several agents.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use bytes::Bytes;
use common::{Agent, noise};
use diai_blocks::{
    Block, RAW,
    handle::AddOptions,
    unixfs,
    workspace::{Entry, Head, JoinError, SERVICE, SignedHead, Workspace, WorkspaceError, WorkspaceEvent},
};
use diai_core::{CallOptions, Calls, memory::Sim};
use futures::{FutureExt, StreamExt};

/// Agents who are connected to each other and share a workspace that the first created.
async fn team(sim: &Sim, numbers: &[u64]) -> Vec<(Agent, Workspace)> {
    let mut agents = Vec::new();
    for number in numbers {
        let agent = Agent::start(sim, *number).await;
        for other in &agents {
            agent.connect(other).await;
        }
        agents.push(agent);
    }
    let members = agents[1..].iter().map(Agent::certificate).collect();
    let first = agents[0].blocks.create_workspace("ring", members).await.unwrap();
    let invitation = first.invitation();
    let mut team = Vec::new();
    for (index, agent) in agents.into_iter().enumerate() {
        let workspace = match index {
            0 => first.clone(),
            _ => agent.blocks.join_workspace(invitation.clone()).await.unwrap(),
        };
        team.push((agent, workspace));
    }
    team
}

async fn roots(team: &[(Agent, Workspace)], entries: usize) -> Vec<cid::Cid> {
    let mut roots = Vec::new();
    for (agent, workspace) in team {
        roots.push(workspace.wait_for_entries(entries, agent.within(300)).await.unwrap());
    }
    roots
}

#[test]
fn three_members_put_files_and_end_with_one_root_and_equal_trees() {
    let sim = Sim::new(1);
    sim.clone().run(async move {
        let team = team(&sim, &[1, 2, 3]).await;
        let mut events = team[2].1.events();
        for (index, (_, workspace)) in team.iter().enumerate() {
            workspace.put(&format!("parts/{index}.txt"), format!("by {index}")).await.unwrap();
        }
        team[0].1.put("model.stl", noise(1, 3 << 20)).await.unwrap();
        let roots = roots(&team, 4).await;
        assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
        for (_, workspace) in &team {
            let paths: Vec<_> = workspace.list().into_iter().map(|entry| entry.path).collect();
            assert_eq!(paths, ["model.stl", "parts/0.txt", "parts/1.txt", "parts/2.txt"]);
            assert_eq!(workspace.read("parts/1.txt").await.unwrap(), "by 1");
            assert_eq!(workspace.read("model.stl").await.unwrap(), noise(1, 3 << 20));
            assert_eq!(workspace.name(), "ring");
        }
        let (mut added, mut synced) = (Vec::new(), None);
        while let Some(Some(event)) = events.next().now_or_never() {
            match event {
                WorkspaceEvent::EntryAdded { path, put_at, seen_at, .. } if seen_at >= put_at => added.push(path),
                WorkspaceEvent::Synced { root } => synced = Some(root),
                _ => {}
            }
        }
        added.sort();
        assert_eq!(added, ["model.stl", "parts/0.txt", "parts/1.txt", "parts/2.txt"]);
        assert_eq!(synced, Some(roots[0]));
        assert_eq!(team[0].1.synced_with().len(), 2);
    });
}

#[test]
fn members_who_were_apart_and_one_who_restarted_converge() {
    let sim = Sim::new(2);
    sim.clone().run(async move {
        let mut team = team(&sim, &[1, 2, 3]).await;
        let peers: Vec<_> = team.iter().map(|(agent, _)| agent.peer()).collect();
        team[0].1.put("before", "all").await.unwrap();
        roots(&team, 1).await;
        sim.cut(peers[0], peers[1]);
        sim.cut(peers[0], peers[2]);
        team[0].1.put("alone", "by the first").await.unwrap();
        team[1].1.put("plan", "second's").await.unwrap();
        team[2].1.put("plan", "third's").await.unwrap();
        // One of the two on the other side restarts on its disk.
        let (agent, workspace) = team.remove(1);
        let (id, identity) = (workspace.id(), agent.identity.clone());
        agent.blocks.shutdown().await.unwrap();
        drop((agent, workspace));
        sim.kill(peers[1]);
        let agent = Agent::on(sim.rejoin(peers[1]), identity).await;
        let workspace = agent.blocks.workspace(id).expect("the workspace survives a restart");
        assert!(workspace.list().iter().any(|entry| entry.path == "before"));
        sim.heal(peers[0], peers[1]);
        sim.heal(peers[0], peers[2]);
        team.insert(1, (agent, workspace));
        // The second meets both others; they do not meet each other.
        team[1].0.connect(&team[0].0).await;
        team[1].0.connect(&team[2].0).await;
        let roots = roots(&team, 4).await;
        assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
        for (_, workspace) in &team {
            // Both versions are kept, and all take the same one for current.
            assert_eq!(workspace.list().iter().filter(|entry| entry.path == "plan").count(), 2);
            assert_eq!(workspace.read("plan").await.unwrap(), "third's");
        }
        team[2].1.remove("plan").await.unwrap();
        while team[0].1.list().len() != 3 {
            team[0].0.world.clock.sleep_until(team[0].0.within(1)).await;
        }
        assert_eq!(team[0].1.read("plan").await.unwrap(), "second's");
        assert!(matches!(team[2].1.remove("plan").await, Err(WorkspaceError::NoEntry { .. })));
    });
}

#[test]
fn a_bystander_fetches_the_root_and_reads_neither_name_nor_byte() {
    let sim = Sim::new(3);
    sim.clone().run(async move {
        let team = team(&sim, &[1, 2]).await;
        team[0].1.put("budget.txt", "four thousand ".repeat(500)).await.unwrap();
        let root = roots(&team, 1).await[0];
        let eve = Agent::start(&sim, 66).await;
        let options = diai_blocks::fetch::FetchOptions::until(eve.within(60));
        eve.blocks.fetch(root, &options).await.unwrap();
        let entries = unixfs::entries(eve.blocks.store(), root, 100).await.unwrap();
        assert_eq!(entries.len(), 2, "a head and a part");
        for stored in eve.blocks.store().store().list(None, 1000) {
            let block = eve.blocks.store().get(&cid::Cid::new_v1(0x55, stored.hash)).await.unwrap().unwrap();
            for needle in [&b"budget"[..], b"thousand", b"ring"] {
                assert!(block.windows(needle.len()).all(|window| window != needle));
            }
        }
        for entry in entries.iter().filter(|entry| !entry.name.starts_with("h-")) {
            assert!(eve.blocks.open_sealed(entry.cid, 1 << 20, eve.within(10)).await.is_err());
        }
        let error = eve.blocks.join_workspace(team[0].1.invitation()).await.unwrap_err();
        assert!(matches!(error, JoinError::NotForYou), "{error}");
    });
}

#[test]
fn strangers_forged_heads_and_garbage_are_refused_and_change_nothing() {
    let sim = Sim::new(4);
    sim.clone().run(async move {
        let team = team(&sim, &[1, 2]).await;
        team[0].1.put("a", "b").await.unwrap();
        let root = roots(&team, 1).await[0];
        let eve = Agent::start(&sim, 66).await;
        eve.connect(&team[0].0).await;
        let exchange = |head: &[u8]| {
            let mut body = vec![0x0a, 32];
            body.extend_from_slice(team[0].1.id().as_bytes());
            body.extend_from_slice(&[0x1a, head.len() as u8]);
            body.extend_from_slice(head);
            Bytes::from(body)
        };
        let to = team[0].0.agent();
        let call = |from: &Agent, body| from.calls.call(to, SERVICE, body, CallOptions::default());
        // Not a member: the workspace does not exist for it, and it is not penalised for asking.
        assert!(call(&eve, exchange(b"x")).await.is_err());
        assert!(team[0].0.world.network.peer(eve.peer()).is_some());
        // A member who sends what is no head is cut off.
        assert!(call(&team[1].0, exchange(b"no head at all")).await.is_err());
        assert!(team[0].0.world.network.peer(team[1].0.peer()).is_none());
        // Garbage cuts off anybody.
        assert!(call(&eve, Bytes::from_static(b"\xff\xff\xff")).await.is_err());
        assert!(team[0].0.world.network.peer(eve.peer()).is_none());
        assert_eq!(team[0].1.root().await.unwrap(), root);
        // What was changed on its way is refused too.
        let mut invitation = team[0].1.invitation().to_vec();
        let last = invitation.len() - 1;
        invitation[last] ^= 1;
        let error = team[1].0.blocks.join_workspace(invitation).await.unwrap_err();
        assert!(matches!(error, JoinError::Forged { .. }), "{error}");
        let error = team[1].0.blocks.join_workspace(team[0].1.invitation()).await.unwrap_err();
        assert!(matches!(error, JoinError::Joined { .. }), "{error}");
    });
}

#[test]
fn paths_that_lead_outside_are_refused_and_a_tree_is_written_out() {
    let sim = Sim::new(5);
    sim.clone().run(async move {
        let team = team(&sim, &[1, 2]).await;
        for path in ["../a", "/a", "", "a//b", "a\\b", "con"] {
            let refused = team[0].1.put(path, "x").await;
            assert!(matches!(refused, Err(WorkspaceError::Path { .. })), "{path:?}");
        }
        let files = vec![("a/b.txt".to_owned(), Bytes::from_static(b"one")), ("c".to_owned(), Bytes::new())];
        team[0].1.put_files(files).await.unwrap();
        roots(&team, 2).await;
        let (agent, workspace) = &team[1];
        assert_eq!(workspace.export(agent.world.disk.clone(), "out").await.unwrap(), 3);
        assert_eq!(agent.world.disk.entry("out/a/b.txt").unwrap().bytes, 3);
        // Nothing of a workspace is garbage.
        agent.blocks.add_bytes(noise(1, 100), AddOptions::default()).await.unwrap();
        agent.blocks.gc().await.unwrap();
        assert_eq!(workspace.read("a/b.txt").await.unwrap(), "one");
    });
}

/// A member's exchange that carries `head`.
fn exchange_of(workspace: &Workspace, head: &SignedHead) -> Bytes {
    let mut body = vec![0x0a, 32];
    body.extend_from_slice(workspace.id().as_bytes());
    body.extend_from_slice(&[0x1a, head.bytes.len() as u8 | 0x80, (head.bytes.len() >> 7) as u8]);
    body.extend_from_slice(&head.bytes);
    body.into()
}

/// A head of `agent` that names `roots`.
fn head_of(agent: &Agent, workspace: &Workspace, roots: &[(u8, cid::Cid)]) -> SignedHead {
    let entry = |&(name, root): &(u8, cid::Cid)| Entry { name: [name; 16], root, tsize: 10 };
    let head = Head {
        workspace: workspace.id(),
        seq: 1,
        signed_at: agent.world.clock.wall(),
        entries: roots.iter().map(entry).collect(),
    };
    SignedHead::sign(&agent.identity, head)
}

#[test]
fn a_part_that_makes_no_sense_is_left_out_and_the_rest_settles_and_is_announced() {
    let sim = Sim::new(6);
    sim.clone().run(async move {
        let (alice, mallory) = (Agent::start(&sim, 1).await, Agent::start(&sim, 2).await);
        alice.connect(&mallory).await;
        let workspace = alice.blocks.create_workspace("ring", vec![mallory.certificate()]).await.unwrap();
        let mut events = workspace.events();
        // Nothing sealed, and no node at all.
        let text = Block::new(RAW, &b"in the clear"[..]).unwrap();
        let garbage = Block::new(0x70, &b"\xff\xff no dag-pb"[..]).unwrap();
        let roots = [(1, text.cid), (2, garbage.cid)];
        mallory.blocks.put_block(text).await.unwrap();
        mallory.blocks.put_block(garbage).await.unwrap();
        let head = head_of(&mallory, &workspace, &roots);
        let body = exchange_of(&workspace, &head);
        mallory.calls.call(alice.agent(), SERVICE, body, CallOptions::default()).await.unwrap();
        workspace.put("a", "b").await.unwrap();
        let root = workspace.wait_for_entries(1, alice.within(60)).await.unwrap();
        let mut unreadable = Vec::new();
        while unreadable.len() < 2 {
            if let WorkspaceEvent::Unreadable { owner, root, .. } = events.next().await.unwrap() {
                assert_eq!(owner, mallory.agent());
                unreadable.push(root);
            }
        }
        alice.blocks.gc().await.unwrap();
        assert_eq!(workspace.read("a").await.unwrap(), "b");
        // Whoever has the root's CID finds the folder.
        let eve = Agent::start(&sim, 66).await;
        eve.blocks.get_block(root, eve.within(30)).await.unwrap();
    });
}

#[test]
fn pins_of_parts_removed_shortly_before_a_crash_are_gone_after_it() {
    let sim = Sim::new(8);
    sim.clone().run(async move {
        let alice = Agent::start(&sim, 1).await;
        let workspace = alice.blocks.create_workspace("ring", Vec::new()).await.unwrap();
        workspace.put("kept", "1").await.unwrap();
        workspace.put("removed", "2").await.unwrap();
        workspace.wait_for_entries(2, alice.within(10)).await.unwrap();
        let pins = alice.blocks.pins().await.unwrap().len();
        workspace.remove("removed").await.unwrap();
        let (peer, identity) = (alice.peer(), alice.identity.clone());
        alice.blocks.shutdown().await.unwrap();
        assert_eq!(alice.blocks.pins().await.unwrap().len(), pins, "it stopped before it gave the pin up");
        drop((alice, workspace));
        sim.kill(peer);
        let alice = Agent::on(sim.rejoin(peer), identity).await;
        assert_eq!(alice.blocks.pins().await.unwrap().len(), pins - 1);
    });
}

#[test]
fn a_part_that_is_removed_while_it_is_fetched_is_not_kept() {
    let sim = Sim::new(9);
    sim.clone().run(async move {
        let team = team(&sim, &[1, 2]).await;
        team[0].1.put("small", "stays").await.unwrap();
        roots(&team, 1).await;
        let (bob, _) = &team[1];
        let pins = bob.blocks.pins().await.unwrap().len();
        for millis in [1, 30] {
            team[0].1.put("large", noise(millis, 8 << 20)).await.unwrap();
            let later = bob.world.clock.now() + std::time::Duration::from_millis(millis);
            bob.world.clock.sleep_until(later).await;
            team[0].1.remove("large").await.unwrap();
            bob.world.clock.sleep_until(bob.within(30)).await;
            assert_eq!(bob.blocks.pins().await.unwrap().len(), pins, "removed after {millis} ms");
        }
    });
}
