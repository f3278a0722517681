//! Writes the seeds: a few valid encodings for each target, made by the crates themselves. Run it when a format grows:
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use std::{error::Error, fs, path::Path, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use diai_blocks::{
    Block, BlockStore, Cid, DAG_CBOR, DAG_JSON, MemoryStore, RAW,
    bitswap::{self, Message, Payload, Prefix, Presence, Version, Want, WantKind},
    car,
    dag::{End, EndReason, Frame as DagFrame, Request, Scope, Skip},
    dag_pb::{Link, Node},
    gateway::{DagScope, EntityBytes, Query},
    ipfs_dht::{self, DhtMessage, DhtPeer},
    unixfs::{Kind, UnixFs},
};
use diai_core::{
    BoxFuture, Disk, OpenMode, Priority, Refusal, frame,
    memory::{AgentSpec, MemoryDisk, Sim},
};
use diai_discovery::{AgentRecord, Attributes, Decimal};
use diai_fuzz::{ALICE, Counting, Inline, MALLORY, NOW, alices_world, message, signed};
use diai_identity::{Domain, key_file::KeyFile};
use diai_messaging::{
    Config, Messaging, NoLocate, codec,
    message::{Frame, Hello, Limits, Mode},
    negotiation::{Agreement, Bidder, Call, CallForProposals, Ending, NegotiationId, Negotiator, Offer},
};

type Seeds = Vec<(&'static str, &'static str, Vec<u8>)>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut seeds = Seeds::new();
    core(&mut seeds);
    identity(&mut seeds)?;
    discovery(&mut seeds)?;
    messaging(&mut seeds);
    negotiation(&mut seeds);
    blocks(&mut seeds)?;
    ipld(&mut seeds)?;
    workspace(&mut seeds)?;
    let mut answer = DhtMessage::new(ipfs_dht::Kind::GetProviders, Bytes::from_static(&[0x12, 2, 7, 7]));
    answer.providers.push(DhtPeer { peer: MALLORY.peer(), addrs: vec!["/ip4/10.0.0.1/tcp/4001".parse()?] });
    seeds.push(("blocks_ipfs_dht", "provider", answer.to_bytes()));
    let tasks = diai_tasks::fuzzing::seeds().into_iter();
    seeds.extend(tasks.map(|(target, name, bytes)| (target, name, bytes.to_vec())));
    seeds.push(("net_hello", "two-addresses", diai_net::fuzzing::hello_seed(MALLORY.certificate())));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (target, name, bytes) in seeds {
        fs::create_dir_all(root.join(target))?;
        fs::write(root.join(target).join(name), bytes)?;
    }
    Ok(())
}

fn core(seeds: &mut Seeds) {
    let mut frames = BytesMut::new();
    for length in [0, 1, 200] {
        frame::put(&vec![9; length], &mut frames);
    }
    seeds.push(("core_frame", "three", frames.to_vec()));
    let inner = [&message(&[(2, b"leaf")])[..], &[0x1a, 2, 1, 2, 0x20, 5]].concat();
    seeds.push(("core_bounded", "tree", message(&[(1, &inner), (1, &message(&[(1, &inner)])), (2, b"root")]).to_vec()));
}

fn identity(seeds: &mut Seeds) -> Result<(), Box<dyn Error>> {
    seeds.push(("identity_certificate", "certificate", MALLORY.certificate().to_bytes().to_vec()));
    let envelope = MALLORY.sign(Domain::new("diai/fuzz/1"), "hello").to_bytes();
    seeds.push(("identity_envelope", "hello", envelope.to_vec()));
    for (name, passphrase) in [("plain", None), ("encrypted", Some("fuzz"))] {
        let disk = MemoryDisk::new();
        let cost = diai_identity::key_file::Cost { memory_kib: 8, passes: 1, lanes: 1 };
        let clock = alices_world(&Sim::new(0)).clock;
        KeyFile::open_or_create_with_cost(&disk, &*clock, &Counting::new(8), passphrase, cost)?;
        let file = disk.open(KeyFile::PATH, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?)?];
        file.read_exact_at(0, &mut bytes)?;
        // The target adds the hash at the end.
        bytes.truncate(bytes.len() - 32);
        seeds.push(("identity_key_file", name, bytes));
    }
    Ok(())
}

fn discovery(seeds: &mut Seeds) -> Result<(), Box<dyn Error>> {
    let attributes = Attributes::from([
        ("flag".to_owned(), true.into()),
        ("price".to_owned(), Decimal::new(-1250, 3).ok_or("a decimal")?.into()),
        ("region".to_owned(), "eu".into()),
        ("slots".to_owned(), (-4).into()),
    ]);
    let record = AgentRecord {
        agent: MALLORY.agent(),
        peer: MALLORY.peer(),
        seq: 300,
        not_before: *NOW,
        expires: *NOW + Duration::from_secs(3600),
        addrs: vec!["/ip4/10.0.0.1/udp/4001/quic-v1".parse()?],
        capabilities: vec!["market/data".parse()?, "modeling/3d".parse()?],
        attributes,
    };
    let bytes = record.to_bytes();
    seeds.push(("discovery_signed_record", "signed", signed("diai/agent-record/1", &bytes).to_vec()));
    seeds.push(("discovery_signed_record", "record", bytes.to_vec()));
    seeds.push(("discovery_record", "record", bytes.to_vec()));
    Ok(())
}

fn frames(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| codec::encode(frame, &mut out));
    out
}

fn messaging(seeds: &mut Seeds) {
    let limits =
        Limits { max_requests: 64, request_window_bytes: 1 << 20, reply_window_bytes: 1 << 20, ..Limits::FLOOR };
    let hello = Frame::Hello(Hello { incarnation: 5, number: 1, seen_incarnation: 0, seen_number: 0, limits });
    let request = |id, mode, total, body| Frame::Request {
        id,
        mode,
        priority: Priority::High,
        deadline_ms: 500,
        total,
        service: "echo",
        body,
    };
    let one = [
        ("hello", hello.clone()),
        ("request", request(3, Mode::Streaming, 5, b"hello")),
        ("response", Frame::Response { id: 3, total: 2, body: b"ok" }),
        ("refusal", Frame::Refusal { id: 3, refusal: Refusal::NotAllowed { reason: "no".into() } }),
        ("credit", Frame::Credit { request_bytes: 1, reply_bytes: 2 }),
    ];
    for (name, frame) in one {
        seeds.push(("messaging_frame", name, frames(&[frame])));
    }
    let serving = [
        hello.clone(),
        request(1, Mode::Whole, 4, b"body"),
        request(2, Mode::Streaming, 4, b"body"),
        Frame::StreamCredit { id: 2, bytes: 4096 },
        request(3, Mode::OneWay, 8, b"body"),
        Frame::RequestData { id: 3, body: b"more" },
        request(4, Mode::Whole, 4, b"body"),
        Frame::Cancel { id: 4 },
        Frame::Ping { token: 600 },
        Frame::Bye,
    ];
    seeds.push(("messaging_session", "serving", frames(&serving)));
    let calling = [
        hello,
        Frame::Response { id: 1, total: 8, body: b"some" },
        Frame::ReplyData { id: 1, body: b"more" },
        Frame::Ack { id: 2 },
        Frame::Part { id: 3, total: 4, body: b"part" },
        Frame::End { id: 3 },
        Frame::Credit { request_bytes: 65_537, reply_bytes: 0 },
        Frame::Refusal { id: 4, refusal: Refusal::Busy { retry_after_ms: 250 } },
        Frame::Ping { token: 11_000 },
        Frame::Pong { token: 1 },
    ];
    seeds.push(("messaging_session", "calling", frames(&calling)));
    let content = [
        &message(&[(1, ALICE.agent().as_bytes()), (2, &[1; 16])])[..],
        &varint_field(3, (*NOW + Duration::from_secs(60)).as_unix_ms()),
        &message(&[(4, b"hi")]),
    ];
    seeds.push(("messaging_sealed", "content", content.concat()));
}

fn varint_field(tag: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(tag, prost::encoding::WireType::Varint, &mut out);
    prost::encoding::encode_varint(value, &mut out);
    out
}

struct Willing;

impl Bidder for Willing {
    fn bid(&self, _: Call) -> BoxFuture<'static, Result<Offer, String>> {
        Box::pin(async { Ok(Offer { price: 7, extra: Bytes::from("x"), ..Offer::default() }) })
    }

    fn awarded(&self, _: Agreement) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn ended(&self, _: NegotiationId, _: Ending) {}
}

fn negotiation(seeds: &mut Seeds) {
    let sim = Sim::new(1);
    let here = alices_world(&sim);
    let certificate = MALLORY.certificate().to_bytes();
    let there = sim.join(AgentSpec { agent: MALLORY.agent(), peer: MALLORY.peer(), certificate });
    let agreement = sim.run(async {
        let start = |world, identity| Messaging::start(world, identity, Arc::new(NoLocate), Config::default());
        let a = start(&here, &ALICE).expect("it starts");
        let b = start(&there, &MALLORY).expect("it starts");
        let bidder = Negotiator::new(&there, Arc::new(b), MALLORY.clone());
        let _bidding = bidder.serve(Arc::new(Willing)).expect("nobody else serves it");
        here.network.connect(MALLORY.peer(), Vec::new()).await.expect("it is there");
        let proposal = CallForProposals {
            kind: "k/1".into(),
            subject: Bytes::from("ring"),
            bids_within: Duration::from_secs(1),
            valid_for: Duration::from_secs(2),
        };
        let caller = Negotiator::new(&here, Arc::new(a), ALICE.clone());
        let mut negotiation = caller.call(vec![MALLORY.agent()], proposal).await.expect("one participant");
        negotiation.award(negotiation.bids()[0].id()).await.expect("it is willing")
    });
    seeds.push(("negotiation_agreement", "agreement", agreement.to_bytes().to_vec()));
    let (call, award) = (agreement.call().signed(), agreement.award());
    seeds.push(("negotiation_service", "call", call.payload().to_vec()));
    seeds.push(("negotiation_service", "award", award.payload().to_vec()));
    seeds.push(("negotiation_service", "signed_call", message(&[(1, &call.to_bytes())]).to_vec()));
    seeds.push(("negotiation_service", "cancel", message(&[(1, &[3; 32]), (2, b"no")]).to_vec()));
}

fn dag(seeds: &mut Seeds, hello: &Block, world: &Block) -> Result<(), Box<dyn Error>> {
    let skips = vec![Skip::whole(world.cid), Skip::links(hello.cid, [true, false, false, true, true])];
    let request = Request { root: hello.cid, scope: Scope::Dag, skips, max_bytes: 1 << 20 };
    let mut framed = BytesMut::from(&request.encode()[..]);
    let whole = frame::take(&mut framed, 4096)?.ok_or("a whole frame")?;
    seeds.push(("blocks_dag_request", "two-skips", whole.to_vec()));
    let mut answer = BytesMut::new();
    for frame in [
        DagFrame::Block { cid: hello.cid, data: hello.data.clone() },
        DagFrame::Skipped(world.cid),
        DagFrame::Missing(world.cid),
        DagFrame::End(End { reason: EndReason::Complete, blocks: 1, bytes: 5, missing: 1, skipped: 1 }),
    ] {
        frame.put(&mut answer);
    }
    seeds.push(("blocks_dag_frame", "one-of-each", answer.to_vec()));
    let range = EntityBytes { from: -9, to: None };
    let path = vec!["a folder".to_owned(), "a file".to_owned()];
    let query = Query { path, bytes: Some(range), ..Query::car(hello.cid, DagScope::Entity) };
    seeds.push(("blocks_gateway_query", "a-range-by-a-path", query.target().into_bytes()));
    let accepted = format!("/ipfs/{}\n{}", hello.cid, query.accept());
    seeds.push(("blocks_gateway_query", "told-by-the-header", accepted.into_bytes()));
    Ok(())
}

fn blocks(seeds: &mut Seeds) -> Result<(), Box<dyn Error>> {
    let (hello, world) = (Block::new(RAW, "hello")?, Block::new(RAW, "world")?);
    let sample = Message {
        full: true,
        wants: vec![
            Want { cid: world.cid, priority: 7, cancel: false, kind: WantKind::Have, send_dont_have: true },
            Want { cid: hello.cid, priority: 0, cancel: true, kind: WantKind::Block, send_dont_have: false },
        ],
        payload: vec![Payload { prefix: Prefix::of(&hello.cid), data: hello.data.clone() }],
        presences: vec![Presence { cid: world.cid, have: false }],
        pending_bytes: 9,
    };
    let mut framed = BytesMut::from(bitswap::encode(&sample, Version::V1_2).concat().as_slice());
    let whole = frame::take(&mut framed, 4096)?.ok_or("a whole frame")?;
    seeds.push(("blocks_bitswap", "sample", whole.to_vec()));
    dag(seeds, &hello, &world)?;

    let link = |name: &str, cid: Cid| Link { cid, name: name.to_owned(), tsize: 5 };
    let file = UnixFs { filesize: Some(10), blocksizes: vec![5, 5], ..UnixFs::new(Kind::File) };
    let folder = UnixFs::new(Kind::Folder);
    let small = UnixFs { data: Some("hello".into()), filesize: Some(5), ..UnixFs::new(Kind::File) };
    let shard = UnixFs {
        data: Some(Bytes::from_static(&[2])),
        hash_type: Some(0x22),
        fanout: Some(256),
        ..UnixFs::new(Kind::Shard)
    };
    let link_to = UnixFs { data: Some("../a".into()), mode: Some(0o777), ..UnixFs::new(Kind::Symlink) };
    let nodes = [
        ("file", &file, vec![link("", hello.cid), link("", world.cid)]),
        ("folder", &folder, vec![link("content", hello.cid), link("g000", world.cid)]),
        ("small", &small, vec![]),
        ("shard", &shard, vec![link("01content", hello.cid)]),
        ("symlink", &link_to, vec![]),
    ];
    for (name, data, links) in nodes {
        let data = data.encode();
        seeds.push(("blocks_unixfs_data", name, data.to_vec()));
        let node = Node { links, data: Some(data) }.encode();
        seeds.push(("blocks_unixfs_node", name, node.clone()));
        if !name.starts_with('s') {
            seeds.push(("blocks_dag_pb", name, node));
        }
    }
    let entry = |path: &[u8], extents| [&message(&[(1, path)])[..], &varint_field(3, extents)].concat();
    let extent = |part, bytes| [varint_field(1, part), varint_field(3, bytes)].concat();
    let older =
        [message(&[(1, &hello.cid.to_bytes()), (2, &[7; 32])]).to_vec(), varint_field(3, 1024), varint_field(4, 512)];
    let entries = [(2, &entry(b"a/b.txt", 2)[..]), (2, &entry(b"c", 0)[..])];
    let rest = [(3, &extent(0, 5)[..]), (3, &extent(1, 6)[..]), (4, &older.concat()[..])];
    let manifest = [varint_field(1, NOW.as_unix_ms()), message(&entries).to_vec(), message(&rest).to_vec()];
    seeds.push(("sealed_manifest", "two", manifest.concat()));
    let group = [&message(&[(1, &[5; 32])])[..], &varint_field(2, 1), &message(&[(3, &[6; 32]), (3, &[7; 32])])];
    seeds.push(("sealed_group", "two_epochs", group.concat()));
    Ok(())
}

fn ipld(seeds: &mut Seeds) -> Result<(), Box<dyn Error>> {
    let leaf = Block::new(RAW, "leaf")?;
    let json =
        format!(r#" {{"a":[{{"/":"{0}"}},-1.5e3,"\u002f",true,null],"b":{{"/":{{"bytes":"AQI"}}}},"/":1}} "#, leaf.cid);
    let json = Block::new(DAG_JSON, json)?;
    let link = |cid: &Cid| [&[0xd8, 42, 0x58, 1 + cid.encoded_len() as u8, 0][..], &cid.to_bytes()].concat();
    let fields = [
        &b"\xa3\x61a"[..],
        &link(&leaf.cid),
        b"\x61b\x84\x20\xf5\xfb\x40\x0a\0\0\0\0\0\0\x42\x01\x02",
        b"\x61c",
        &link(&json.cid),
    ];
    let cbor = Block::new(DAG_CBOR, fields.concat())?;
    seeds.push(("blocks_dag_json", "node", json.data.to_vec()));
    seeds.push(("blocks_dag_cbor", "node", cbor.data.to_vec()));

    let store = BlockStore::new(Arc::new(MemoryStore::new(1 << 20)), Arc::new(Inline));
    let (disk, root) = (Arc::new(MemoryDisk::new()), cbor.cid);
    futures::executor::block_on(async {
        store.put_many(vec![leaf, json, cbor]).await?;
        for (version, name) in [(car::Version::V1, "v1"), (car::Version::V2, "v2")] {
            let options = car::ExportOptions { version, ..car::ExportOptions::default() };
            car::export_path(&store, &[root], disk.clone(), name, store.offload(), &options).await?;
            let file = disk.open(name, OpenMode::Read)?;
            let mut bytes = vec![0; usize::try_from(file.len()?)?];
            file.read_exact_at(0, &mut bytes)?;
            seeds.push(("blocks_car_import", name, bytes));
        }
        Ok(())
    })
}

fn workspace(seeds: &mut Seeds) -> Result<(), Box<dyn Error>> {
    let part = Block::new(RAW, "part")?.cid.to_bytes();
    let entry = [&message(&[(1, &[1; 16]), (2, &part)])[..], &varint_field(3, 5)].concat();
    let rest = [&varint_field(2, 1)[..], &varint_field(3, NOW.as_unix_ms()), &message(&[(4, &entry)])].concat();
    let head = [&message(&[(1, &[2; 32])])[..], &rest].concat();
    seeds.push(("workspace_head", "signed", signed("diai/workspace-head/1", &head).to_vec()));
    seeds.push(("workspace_head", "head", head));
    // The target adds the id of its workspace.
    seeds.push(("workspace_exchange", "head", rest));
    let known = [&message(&[(1, MALLORY.agent().as_bytes())])[..], &varint_field(2, 1), &message(&[(3, &[7; 8])])];
    seeds.push(("workspace_exchange", "known", message(&[(2, &known.concat())]).to_vec()));
    let (alice, mallory) = (ALICE.certificate().to_bytes(), MALLORY.certificate().to_bytes());
    let terms = message(&[(1, b"ring"), (2, &[4; 32]), (3, &mallory), (3, &alice)]);
    seeds.push(("workspace_invitation", "terms", terms.to_vec()));
    Ok(())
}
