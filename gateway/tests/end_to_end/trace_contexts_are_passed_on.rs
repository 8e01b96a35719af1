//! What upstreams get of `traceparent` and `tracestate`, where no spans are exported.

use std::time::Duration;

use tokio::time::timeout;

use crate::client::Client;
use crate::rig::Rig;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn if_they_are_sound() {
    let mut rig = Rig::start().await;
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let both = format!("traceparent: {PARENT}\r\ntracestate: a=1");
    let mut check = async |lines: &str, expected: [bool; 2]| {
        assert_eq!(client.get("/", &format!("{lines}\r\n")).await.status(), 200);
        let seen = rig.upstream.take();
        let found = [
            seen.contains(&format!("traceparent: {PARENT}\r\n")),
            seen.contains("tracestate: a=1\r\n"),
        ];
        assert_eq!(found, expected, "{lines}");
        let names = seen.to_ascii_lowercase().matches("trace").count();
        assert_eq!(
            names,
            found.iter().filter(|found| **found).count(),
            "{seen}"
        );
        let told = timeout(Duration::from_secs(5), rig.exchanges.recv()).await;
        let trace = told.expect("in time").expect("told").trace;
        assert_eq!(
            trace.map(|trace| trace.trace_id),
            found[0].then_some(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c)
        );
    };
    check(&both, [true, true]).await;
    check(&both.replace("traceparent", "TraceParent"), [true, true]).await;
    check(&format!("traceparent: {PARENT}"), [true, false]).await;
    check("tracestate: a=1", [false, false]).await;
    check(&both.replace("00-", "ff-"), [false, false]).await;
    check(&both.replace("-01", "-01-x"), [false, false]).await;
    check(&both.to_ascii_uppercase(), [false, false]).await;
    check(&format!("{both}\r\ntraceparent: {PARENT}"), [false, false]).await;
    check(&format!("{both}\r\ntracestate: a=2"), [true, false]).await;
    // Who says that they are for the gateway alone gets that.
    let lines = format!("{both}\r\nConnection: traceparent, tracestate");
    assert_eq!(client.get("/", &format!("{lines}\r\n")).await.status(), 200);
    assert!(!rig.upstream.take().contains("trace"));
}
