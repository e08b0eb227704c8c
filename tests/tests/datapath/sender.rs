//! The program that generates the bench's frames: it has as many sources as asked for, and
//! every frame is valid.

use std::{collections::BTreeSet, path::Path};

use aya::{TestRun, TestRunOptions, programs::Xdp};
use aya_obj::programs::XdpAttachType;
use etherparse::Ipv4Header;
use margay_tests::{
    frame::Frame,
    programs::{Hook, pin, sender},
};

/// The sources of 64 frames; the checksum of each is right.
fn sources(drawn: u16) -> BTreeSet<[u8; 4]> {
    let frame = Frame::udp([2, 9, 9, 9, 9, 9], [198, 18, 0, 0].into(), [10, 5, 0, 70].into()).bytes();
    let path = format!("/sys/fs/bpf/margay-sender-{}-{drawn}", std::process::id());
    pin(Path::new(&path), Hook::Xdp, &sender(&frame[..36], 1, drawn));
    let program = Xdp::from_pin(&path, XdpAttachType::Interface).expect("just pinned");
    std::fs::remove_file(path).expect("a pin");
    let one = |_| {
        let mut out = vec![0; frame.len()];
        let options =
            TestRunOptions { data_in: Some(&frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        program.test_run(options).expect("it runs");
        let (header, _) = Ipv4Header::from_slice(&out[14..]).expect("a packet of IPv4");
        assert_eq!(header.calc_header_checksum(), header.header_checksum, "{header:?}");
        header.source
    };
    (0..64).map(one).collect()
}

#[test]
fn sources_are_drawn_within_their_mask() {
    assert_eq!(sources(0), [[198, 18, 0, 0]].into());
    for mask in [0x03ff, 0xffff] {
        let sources = sources(mask);
        assert!(sources.len() > 32, "{mask:x}: {sources:?}");
        let within =
            |[a, b, c, d]: &[u8; 4]| [*a, *b] == [198, 18] && u16::from_ne_bytes([*c, *d]) & !mask == 0;
        assert!(sources.iter().all(within), "{mask:x}: {sources:?}");
    }
}
