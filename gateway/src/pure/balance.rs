//! Which of an upstream's servers gets the next request.

use std::time::Duration;

/// What is known of a server's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Nothing speaks against it.
    Healthy,
    /// It failed lately, and is left alone for a while.
    SetAside,
    /// Its health checks say that it does not serve.
    Unhealthy,
}

/// A server as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) standing: Standing,
    /// Requests of this worker that it has not answered to the end.
    pub(crate) outstanding: usize,
}

/// The best of `count` servers: the healthiest, among them the one with the least to do, among them the first from
/// the one whose `turn` it is. `candidate` says nothing of a server that was tried already.
///
/// Nobody is too ill for the last resort: `None` only if every server was tried.
pub(crate) fn choose(
    count: usize,
    turn: usize,
    candidate: impl Fn(usize) -> Option<Candidate>,
) -> Option<usize> {
    (0..count)
        .map(|distance| (turn.wrapping_add(distance)) % count)
        .filter_map(|position| candidate(position).map(|candidate| (position, candidate)))
        // Of equals, the first.
        .min_by_key(|(_, candidate)| (candidate.standing, candidate.outstanding))
        .map(|(position, _)| position)
}

/// How long a server is set aside after so many failures in a row.
///
/// A server that does not take connections counts [`REFUSALS`] at once; one that is late or answers badly may have
/// done so because of the request, and is believed for a while.
pub(crate) fn set_aside_for(failures: u32) -> Option<Duration> {
    let doublings = failures.checked_sub(REFUSALS)?;
    let seconds = 1_u64 << doublings.min(6);
    Some(Duration::from_secs(seconds.min(LONGEST)))
}

/// Failures in a row that set a server aside.
pub(crate) const REFUSALS: u32 = 3;
const LONGEST: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(servers: &[(Standing, usize)], turn: usize, tried: &[usize], expected: Option<usize>) {
        let chosen = choose(servers.len(), turn, |position| {
            let (standing, outstanding) = servers[position];
            (!tried.contains(&position)).then_some(Candidate {
                standing,
                outstanding,
            })
        });
        assert_eq!(chosen, expected, "{servers:?} {turn} {tried:?}");
    }

    #[test]
    fn the_least_busy_of_the_healthiest() {
        use Standing::*;
        let equals = [(Healthy, 0); 3];
        for turn in 0..7 {
            check(&equals, turn, &[], Some(turn % 3));
        }
        check(&equals, usize::MAX, &[], Some(usize::MAX % 3));
        check(&[(Healthy, 2), (Healthy, 1), (Healthy, 2)], 0, &[], Some(1));
        check(&[(Healthy, 2), (Healthy, 1), (Healthy, 1)], 2, &[], Some(2));
        check(
            &[(Healthy, 9), (SetAside, 0), (Unhealthy, 0)],
            1,
            &[],
            Some(0),
        );
        check(
            &[(Healthy, 9), (SetAside, 5), (Unhealthy, 0)],
            1,
            &[0],
            Some(1),
        );
        check(
            &[(Healthy, 9), (SetAside, 5), (Unhealthy, 0)],
            1,
            &[0, 1],
            Some(2),
        );
        check(&[(Unhealthy, 3), (Unhealthy, 2)], 0, &[], Some(1));
        check(&[(Unhealthy, 3), (Unhealthy, 2)], 0, &[0, 1], None);
        check(&[], 0, &[], None);
    }

    #[test]
    fn failures_set_aside_for_longer_and_longer() {
        let seconds = |failures| set_aside_for(failures).map(|time| time.as_secs());
        assert_eq!(
            [0, 2, 3, 4, 5, 8, 9, 10, u32::MAX].map(seconds),
            [
                None,
                None,
                Some(1),
                Some(2),
                Some(4),
                Some(32),
                Some(60),
                Some(60),
                Some(60)
            ]
        );
    }
}
