//! The checks of what a route asks of those who take it, and of the limits of `[gateway]`.

use std::num::NonZeroU32;

use gateway::{ClientMode, Rate, RateLimit, RateScope, RoutePolicy};
use identity::labels::Group;

use super::check::Notes;
use super::file_policy::{LimitKeys, PolicyKeys};
use super::{GatewayLimits, Located, Place, values};

impl Notes {
    /// Judges the limits that hold for every route, unless it says otherwise.
    pub(super) fn limits(&mut self, keys: LimitKeys) -> (GatewayLimits, Option<RateLimit>) {
        let default = GatewayLimits::default();
        let mut number = |written: Option<Located<i64>>, key, default| match written {
            Some(written) => self.number(written, 1, MOST_AT_ONCE, key) as usize,
            None => default,
        };
        let limits = GatewayLimits {
            connections_per_device: number(
                keys.max_connections_per_device,
                "max_connections_per_device",
                default.connections_per_device,
            ),
            requests_per_device: number(
                keys.max_requests_per_device,
                "max_requests_per_device",
                default.requests_per_device,
            ),
            connections_per_address: number(
                keys.max_connections_per_address,
                "max_connections_per_address",
                default.connections_per_address,
            ),
            requests_per_address: number(
                keys.max_requests_per_address,
                "max_requests_per_address",
                default.requests_per_address,
            ),
        };
        let written = keys.rate.is_some();
        let rate = match self.rate(keys.rate, keys.burst.clone(), RateScope::Gateway) {
            Some(rate) => rate,
            None if written => None,
            None => {
                let burst = self.burst(keys.burst).unwrap_or(DEFAULT_BURST);
                limit(DEFAULT_RATE, NonZeroU32::MIN, burst, RateScope::Gateway)
            }
        };
        (limits, rate)
    }

    /// Judges a route's policy; `rate` is what holds where the route says nothing.
    pub(super) fn policy(
        &mut self,
        keys: PolicyKeys,
        route: Place,
        identity: Option<Place>,
        rate: Option<RateLimit>,
    ) -> RoutePolicy {
        let client = keys
            .client
            .and_then(|client| self.take(client.place, values::client(&client.value)))
            .unwrap_or_default();
        let groups = keys.groups.map(|groups| self.groups(groups, client, route));
        match client {
            ClientMode::Anonymous => {
                if let Some(place) = identity {
                    self.note(
                        place,
                        "a route with client = \"anonymous\" tells the upstream no identity; leave identity out",
                    );
                }
            }
            ClientMode::Require | ClientMode::Request | ClientMode::ReportOnly => {}
        }
        if keys.rate.is_none()
            && let Some(burst) = &keys.burst
        {
            self.note(
                burst.place,
                "burst needs the route's own rate; write for example rate = \"50/s\"",
            );
        }
        let own = self.rate(keys.rate, keys.burst, RateScope::Route);
        RoutePolicy {
            client,
            groups,
            via: Vec::new(),
            max_head: self.size(keys.max_head, "max_head", LONGEST_HEAD),
            max_body: self.size(keys.max_body, "max_body", LONGEST_BODY),
            rate: own.unwrap_or(rate),
            refuses_websockets: keys.websocket == Some(false),
        }
    }

    fn groups(
        &mut self,
        written: Vec<Located<String>>,
        client: ClientMode,
        route: Place,
    ) -> Vec<Group> {
        let place = written.first().map_or(route, |first| first.place);
        match client {
            ClientMode::Require | ClientMode::ReportOnly => {}
            ClientMode::Request | ClientMode::Anonymous => self.note(
                place,
                "groups asks for a device, and client lets requests pass without one; write client = \"require\", or leave groups out",
            ),
        }
        if written.is_empty() {
            self.note(
                route,
                "the route's groups are an empty list, which admits nobody; name a group, or leave groups out to admit every device",
            );
        }
        let mut groups = Vec::with_capacity(written.len());
        for Located { place, value } in written {
            let Some(group) = self.take(place, values::group(&value)) else {
                continue;
            };
            if groups.contains(&group) {
                self.note(place, format!("the group {value:?} is written twice"));
            } else {
                groups.push(group);
            }
        }
        groups
    }

    fn size(&mut self, written: Option<Located<String>>, key: &str, most: u64) -> Option<u64> {
        let Located { place, value } = written?;
        let size = self.take(place, values::size(key, &value))?;
        if size > most {
            self.note(place, format!("{key} may be {most} bytes at most"));
        }
        Some(size)
    }

    /// `Some(None)` if there shall be no limit; `None` if nothing, or a mistake, was written.
    fn rate(
        &mut self,
        written: Option<Located<String>>,
        burst: Option<Located<i64>>,
        scope: RateScope,
    ) -> Option<Option<RateLimit>> {
        let Located { place, value } = written?;
        let (count, seconds) = match self.take(place, values::rate(&value))? {
            Some(rate) => rate,
            None => {
                if let Some(burst) = burst {
                    self.note(
                        burst.place,
                        "burst says nothing beside rate = \"unlimited\"",
                    );
                }
                return Some(None);
            }
        };
        let burst = match burst {
            Some(_) => self.burst(burst)?,
            None => values::default_burst(count, seconds),
        };
        let limit = limit(count, seconds, burst, scope);
        if limit.is_none() {
            self.note(place, format!("rate = {value:?} is out of range"));
        }
        Some(limit)
    }

    fn burst(&mut self, written: Option<Located<i64>>) -> Option<NonZeroU32> {
        let burst = self.number(written?, 1, u64::from(LARGEST_BURST), "burst");
        u32::try_from(burst).ok().and_then(NonZeroU32::new)
    }
}

fn limit(
    count: NonZeroU32,
    seconds: NonZeroU32,
    burst: NonZeroU32,
    scope: RateScope,
) -> Option<RateLimit> {
    Rate::new(count, seconds, burst).map(|rate| RateLimit { rate, scope })
}

/// Generous: a device that polls four times a second uses a fiftieth of it.
const DEFAULT_RATE: NonZeroU32 = NonZeroU32::new(200).expect("not zero");
const DEFAULT_BURST: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");
const LARGEST_BURST: u32 = 1_000_000;
const MOST_AT_ONCE: u64 = 1_000_000;
/// What the gateway itself accepts of a head.
const LONGEST_HEAD: u64 = 16 * 1024;
const LONGEST_BODY: u64 = 1 << 50;
