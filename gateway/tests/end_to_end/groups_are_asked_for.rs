//! Groups: a route admits the devices in any of its groups, and a change is in force with the next request.

use gateway::{Code, Outcome, RoutePolicy};
use identity::labels::Group;

use crate::client::Client;
use crate::rig::{Rig, routes_of};

fn groups(names: &[&str]) -> RoutePolicy {
    let parse = |name: &&str| Group::parse(name).expect("legal");
    RoutePolicy {
        groups: Some(names.iter().map(parse).collect()),
        ..RoutePolicy::default()
    }
}

#[tokio::test]
async fn a_change_of_groups_is_in_force_with_the_next_request() {
    let mut rig = Rig::start().await;
    rig.publish(routes_of(
        &rig.upstream,
        &[
            (None, "/", RoutePolicy::default()),
            (None, "/blue", groups(&["blue", "green"])),
            (None, "/nobody", groups(&[])),
        ],
    ));
    let device = rig.device("a", 1).await;
    let mut client = Client::connect(&rig, &device).await;
    let refusal = || (403, "group-not-allowed".to_owned());
    assert_eq!(client.get("/", "").await.status(), 200);
    rig.next_record().await;
    assert_eq!(client.get("/blue", "").await.refusal(), refusal());
    assert_eq!(
        rig.next_outcome().await,
        Outcome::Refused(Code::GroupNotAllowed)
    );
    // A class comes with its meaning, and the open connection is judged by it.
    rig.classify(&device, 1, &["blue"]).await;
    assert_eq!(client.get("/blue/x", "").await.status(), 200);
    rig.classify(&device, 2, &["red"]).await;
    assert_eq!(client.get("/blue", "").await.refusal(), refusal());
    rig.classify(&device, 700, &["green", "red"]).await;
    assert_eq!(client.get("/blue", "").await.status(), 200);
    assert_eq!(client.get("/nobody", "").await.refusal(), refusal());
    rig.classify(&device, 0, &[]).await;
    assert_eq!(client.get("/blue", "").await.refusal(), refusal());
    assert_eq!(client.get("/", "").await.status(), 200);
    assert_eq!(rig.upstream.take().matches("x-device-id: a\r\n").count(), 4);

    // Other routes ask for other groups, of the classes that are known.
    rig.classify(&device, 2, &["red"]).await;
    assert_eq!(client.get("/blue", "").await.refusal(), refusal());
    rig.publish(routes_of(&rig.upstream, &[(None, "/", groups(&["red"]))]));
    assert_eq!(client.get("/blue", "").await.status(), 200);
}
