//! The wire, byte for byte. A change here breaks every agent that is out there. The vectors were computed by another
//! implementation of Ed25519, X25519, HPKE, Argon2id and XChaCha20-Poly1305.

mod common;

use common::{Counting, DOMAIN, NOW, hex, identity, unhex};
use diai_core::{AgentId, Disk, OpenMode, memory::MemoryDisk};
use diai_identity::{
    Certificate, LocalSigner, Signed, Signer,
    key_file::{Cost, KeyFile},
};

const BODY: &str = "\
    0a208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c12208139770ea87d175f56a35466c34c7ecccb8d8a91\
    b4ee37a25df60f5b8fc9b3941a205dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef222080a0f1c2b1342880b0\
    ec96bb343080a0f1c2b134\
";
const CERTIFICATE: &str = "\
    0a7b0a208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c12208139770ea87d175f56a35466c34c7ecccb8d\
    8a91b4ee37a25df60f5b8fc9b3941a205dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef222080a0f1c2b13428\
    80b0ec96bb343080a0f1c2b13412408b3ec22a41304e1b385c0676b66d9157348b7e487aea9be5b935c93e31200a212d9071323ee82d05b2\
    c4c75754ccb2d25ef305692c37211a4ee890850df98f0d1a4033a4d28f16d6f5c6b97d54acdce4202173f5a0d74f10efab244ea6ef8bf1ed\
    b31813debcf7bcb8a5b0d736f1c9f3ed3e07a25530322754819d8ca69d148f1702\
";
const ENVELOPE: &str = "\
    0a0568656c6c6f1281020a7b0a208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c12208139770ea87d175f\
    56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b3941a205dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3\
    ef222080a0f1c2b1342880b0ec96bb343080a0f1c2b13412408b3ec22a41304e1b385c0676b66d9157348b7e487aea9be5b935c93e31200a\
    212d9071323ee82d05b2c4c75754ccb2d25ef305692c37211a4ee890850df98f0d1a4033a4d28f16d6f5c6b97d54acdce4202173f5a0d74f\
    10efab244ea6ef8bf1edb31813debcf7bcb8a5b0d736f1c9f3ed3e07a25530322754819d8ca69d148f17021a401ee5b244b999dd0f6fb891\
    12f4314d7b6adc70d2de4b4928ae9f003da8dcd35aa71ae5a7d8746bccf2ed70e1153ab26f6e78291d06dc741d7b7eba431ef5d80a\
";
const SEALED: &str = "\
    0e657d3e3f68c49c063132762504d699759fa3e743d6a13fabfa41663af5e612bda5658c12bb83e1df804bf21c8eb531a7c50d2794d4ea29\
    1e\
";
const KEY_FILE: &str = "\
    646961692d6b6579010108000000010000000100000001010101010101010101010101010101050505050505050505050505050505050505\
    050505050505f71a63ba28df6f77703219eddec64d3b434163742eee3fe593b50f97e3529c3ed307942f5b5b81c48621dc8de43c8e607c52\
    ce007eca6fbe7ae652751e5fef1a61ea679454c22bb59bc2266e4c7fe2ba24d5b1e00d8234e614ee712aac97084d51914b218ec08fc0d9c8\
    94791862aaeba065ab5f1720feb12cb8fc55513846be49c9d00a79ee0bf2f1fa2d7bf0c799331ff5198aa3f1143803f5c4af6b59c549d665\
    50bd827552a84bdd958b3eb27cf1b95f91f5800bb7db020810e2f1c5acdb18c3f0d813ba1f0ae580982078c225f30ce11d796c96f0abc2da\
    7d7a9de83216192bdd88b99045ab4ba47cf491b35f6330e0964bc60ba9016fd642755bad26adeb96740d5963bbaf5ca74a083af88e119ec7\
    6d3a376323e414e2d00265f6fde996b3312c8446052be5be08874c03c76e32615fe53fe316648013d93e96a32997e3bc5ce25758c5c4d2ee\
    8f198e88aa13e402b94ff299e08943f065df44fe204d36ab95472c7ba0907a43495e44c33238712718d27ca083fbf33a610d65aa2a7429e1\
    8e192441ba65f1122c1f5be202800b\
";

#[test]
fn agents_are_written_as_the_did_key_specification_does() {
    let vectors = [
        (0, "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"),
        (1, "did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG"),
        (2, "did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf"),
    ];
    for (last, did) in vectors {
        let mut seed = [0; 32];
        seed[31] = last;
        let agent = LocalSigner::from_seed(&seed).agent();
        assert_eq!(agent.to_string(), did);
        assert_eq!(did.parse::<AgentId>().unwrap(), agent);
    }
}

#[test]
fn a_certificate() {
    let certificate = identity(1).certificate();
    assert_eq!(hex(&certificate.to_bytes()), CERTIFICATE);
    assert!(CERTIFICATE.contains(BODY));

    let decoded = Certificate::from_bytes(unhex(CERTIFICATE)).unwrap();
    assert_eq!(decoded, certificate);
    assert_eq!(decoded.verify(NOW), Ok(()));
    assert_eq!(decoded.peer().to_string(), "12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq");
    assert_eq!((decoded.not_before(), decoded.expires()), (NOW, NOW + 30 * common::DAY));
    assert_eq!(decoded.seq(), NOW.as_unix_ms());
}

#[test]
fn an_envelope() {
    let signed = identity(1).sign(DOMAIN, "hello");
    assert_eq!(hex(&signed.to_bytes()), ENVELOPE);
    let decoded = Signed::from_bytes(unhex(ENVELOPE), 512).unwrap();
    assert_eq!(decoded.verify(DOMAIN, NOW).unwrap().payload, "hello");
}

#[test]
fn a_sealed_message() {
    let alice = identity(1);
    let sealed = alice.encryption_key().seal(&Counting::from(50), b"diai/test-seal/1", b"for alice");
    assert_eq!(hex(&sealed), SEALED);
    assert_eq!(alice.open_sealed(b"diai/test-seal/1", &unhex(SEALED)).unwrap(), b"for alice");
}

#[test]
fn key_files_written_by_the_first_version_open() {
    let disk = MemoryDisk::new();
    diai_core::write_atomically(&disk, KeyFile::PATH, &unhex(KEY_FILE)).unwrap();
    let file = KeyFile::open_or_create(&disk, &common::At(NOW), &Counting::from(9), Some("correct horse")).unwrap();
    assert_eq!(file.identity().certificate(), identity(2).certificate());

    let cheap = Cost { memory_kib: 8, passes: 1, lanes: 1 };
    let (disk, entropy) = (MemoryDisk::new(), Counting::from(1));
    KeyFile::open_or_create_with_cost(&disk, &common::At(NOW), &entropy, Some("correct horse"), cheap).unwrap();
    let file = disk.open(KeyFile::PATH, OpenMode::Read).unwrap();
    let mut written = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(0, &mut written).unwrap();
    assert_eq!(hex(&written), KEY_FILE, "and the same is written today");
}
