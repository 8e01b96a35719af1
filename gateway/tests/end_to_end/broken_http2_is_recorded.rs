//! Who breaks HTTP/2 loses the connection, and an operator can find out why; who merely goes away leaves no trace.

use std::time::Duration;

use gateway::{Code, Outcome};
use identity::DeviceName;

use crate::authority::Identity;
use crate::client::{config, handshake};
use crate::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Ending, GET, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
    PING, RST_STREAM, Raw, SETTINGS, frame, get, head, window_update,
};
use crate::rig::Rig;

const SOON: Duration = Duration::from_secs(5);

async fn raw(rig: &Rig, device: &Identity) -> Raw {
    let tls = handshake(rig, config(rig, Some(device), "h2"), "api.test");
    Raw::start(tls.await.expect("a handshake"), &[]).await
}

#[tokio::test]
async fn under_the_name_of_its_device() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let whole = END_STREAM | END_HEADERS;
    let get_head = head(GET, "api.test", "/");
    let large_window = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &[0xff; 4]].concat();
    for (what, bytes) in [
        ("PING of 7 bytes", frame(PING, 0, 0, &[7; 7])),
        ("PING on a stream", frame(PING, 0, 1, &[7; 8])),
        ("half a setting", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a window too large", frame(SETTINGS, 0, 0, &large_window)),
        ("a window that overflows", window_update(0, 0x7fff_ffff)),
        ("a window that does not grow", window_update(0, 0)),
        ("DATA before HEADERS", frame(DATA, END_STREAM, 1, b"x")),
        (
            "RST_STREAM before HEADERS",
            frame(RST_STREAM, 0, 1, &[0; 4]),
        ),
        (
            "a stream of the server's",
            frame(HEADERS, whole, 2, &get_head),
        ),
        ("HEADERS on stream 0", frame(HEADERS, whole, 0, &get_head)),
        ("no HPACK", frame(HEADERS, whole, 1, &[0xff; 20])),
        (
            "CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &get_head),
        ),
        ("a frame too large", frame(DATA, 0, 1, &[0; 20_000])),
    ] {
        let mut raw = raw(&rig, &device).await;
        raw.send(&bytes).await.expect("sent");
        let ending = raw.ending(SOON).await;
        assert!(matches!(ending, Ending::Goaway(1..)), "{what}: {ending:?}");
        let record = rig.next_record().await;
        let expected = Outcome::Refused(Code::MalformedRequest);
        assert_eq!(record.outcome, expected, "{what}");
        assert_eq!(record.device, "a".parse::<DeviceName>().ok(), "{what}");
    }
    assert_eq!(rig.upstream.take(), "");
    // Neither the end of a connection nor a goodbye with an error code is a rule that was broken.
    drop(raw(&rig, &device).await);
    let mut leaving = raw(&rig, &device).await;
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 1]);
    leaving.send(&goaway).await.expect("sent");
    leaving.ending(SOON).await;
    let mut asking = raw(&rig, &device).await;
    asking.send(&get("api.test", "/", 1)).await.expect("sent");
    assert_eq!(asking.until(DATA).await.expect("an answer").payload, b"ok");
    assert_eq!(rig.next_outcome().await, Outcome::Forwarded);
    assert!(rig.records.try_recv().is_err());
}
