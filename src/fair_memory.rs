//! A bounded memory for what many have said: whoever says much makes the memory forget what they said themselves.
//!
//! When it is full, the oldest value is forgotten of the owner who has the most. So nobody loses a value to somebody
//! who has as many or more, and who is alone may use all of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

/// Values and their owners, by a number that only grows.
pub(crate) struct FairMemory<O, V> {
    values: BTreeMap<u64, (O, V)>,
    /// The numbers of an owner's values, oldest first; none of these is empty.
    owned: HashMap<O, VecDeque<u64>>,
    /// How many values each owner has, and the number of the oldest; the last one has to give.
    shares: BTreeSet<(usize, Reverse<u64>)>,
    capacity: usize,
}

impl<O: Clone + Eq + Hash, V> FairMemory<O, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            values: BTreeMap::new(),
            owned: HashMap::new(),
            shares: BTreeSet::new(),
            capacity,
        }
    }

    /// Remembers a value under a number that is larger than every one before.
    pub(crate) fn remember(&mut self, number: u64, owner: O, value: V) {
        if self.values.len() >= self.capacity {
            self.make_room(&owner);
        }
        let mut owned = self.take_share(&owner);
        owned.push_back(number);
        self.put_share(owner.clone(), owned);
        self.values.insert(number, (owner, value));
    }

    /// The values with their numbers, newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = (u64, &V)> {
        self.values
            .iter()
            .rev()
            .map(|(number, (_, value))| (*number, value))
    }

    /// Forgets a value of whoever has the most, which is the asker if nobody has more.
    fn make_room(&mut self, asker: &O) {
        let Some((most, Reverse(oldest))) = self.shares.last().copied() else {
            return;
        };
        let of_asker = self.owned.get(asker).map_or(0, VecDeque::len);
        let owner = match self.values.get(&oldest) {
            Some((owner, _)) if of_asker < most => owner.clone(),
            Some(_) | None => asker.clone(),
        };
        let mut owned = self.take_share(&owner);
        if let Some(oldest) = owned.pop_front() {
            self.values.remove(&oldest);
        }
        self.put_share(owner, owned);
    }

    fn take_share(&mut self, owner: &O) -> VecDeque<u64> {
        let owned = self.owned.remove(owner).unwrap_or_default();
        if let Some(oldest) = owned.front() {
            self.shares.remove(&(owned.len(), Reverse(*oldest)));
        }
        owned
    }

    fn put_share(&mut self, owner: O, owned: VecDeque<u64>) {
        if let Some(oldest) = owned.front() {
            self.shares.insert((owned.len(), Reverse(*oldest)));
            self.owned.insert(owner, owned);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many values each owner has at last, if they say as much as is said here, one after the other.
    fn check(capacity: usize, said: &[(char, u64)], expected: &[(char, usize)]) {
        let mut memory = FairMemory::new(capacity);
        let mut number = 0;
        for (owner, times) in said {
            for _ in 0..*times {
                memory.remember(number, *owner, (*owner, number));
                number += 1;
            }
        }
        for (owner, count) in expected {
            let kept: Vec<u64> = memory
                .newest_first()
                .filter(|(_, (whose, _))| whose == owner)
                .map(|(number, _)| number)
                .collect();
            assert_eq!(kept.len(), *count, "of {owner}: {said:?}");
            assert!(kept.is_sorted_by(|newer, older| newer > older));
        }
        let total = memory.values.len();
        assert!(total <= capacity);
        assert_eq!(
            memory.owned.values().map(VecDeque::len).sum::<usize>(),
            total
        );
        assert_eq!(
            memory.shares.iter().map(|(many, _)| many).sum::<usize>(),
            total
        );
        assert_eq!(memory.shares.len(), memory.owned.len());
    }

    #[test]
    fn who_is_alone_has_all_and_gives_when_others_come() {
        check(10, &[('a', 7)], &[('a', 7)]);
        check(10, &[('a', 1_000)], &[('a', 10)]);
        check(10, &[('a', 1_000), ('b', 3)], &[('a', 7), ('b', 3)]);
        check(10, &[('a', 1_000), ('b', 1_000)], &[('a', 5), ('b', 5)]);
    }

    #[test]
    fn nobody_is_forgotten_for_somebody_who_says_more() {
        check(
            10,
            &[('a', 2), ('b', 3), ('c', 1_000)],
            &[('a', 2), ('b', 3), ('c', 5)],
        );
        check(
            10,
            &[('c', 1_000), ('a', 2), ('c', 1_000)],
            &[('a', 2), ('c', 8)],
        );
    }

    #[test]
    fn among_equals_the_oldest_is_forgotten() {
        check(
            3,
            &[('a', 1), ('b', 1), ('c', 1), ('d', 1)],
            &[('a', 0), ('b', 1), ('d', 1)],
        );
    }
}
