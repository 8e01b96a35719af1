//! Which classes of devices a route admits: decided once when routes or classes change, looked up per request.

use std::collections::BTreeSet;

use identity::Class;
use identity::feed::ClassDefinition;
use identity::labels::Group;

/// What every class stands for, as far as this gateway was told.
#[derive(Debug, Default)]
pub(crate) struct Classes(Vec<BTreeSet<Group>>);

impl Classes {
    /// Takes a definition; true if it was not known. Class 0 is in no group, whatever is said of it.
    pub(crate) fn define(&mut self, definition: &ClassDefinition) -> bool {
        let class = usize::from(definition.class.0);
        if class == 0 {
            return false;
        }
        if class >= self.0.len() {
            self.0.resize_with(class + 1, BTreeSet::new);
        }
        let known = &mut self.0[class];
        let is_new = *known != definition.groups;
        if is_new {
            known.clone_from(&definition.groups);
        }
        is_new
    }

    /// The classes that are in any of these groups.
    pub(crate) fn in_any_of(&self, groups: &[Group]) -> ClassSet {
        let mut words = vec![0; self.0.len().div_ceil(64)];
        for (class, its_groups) in self.0.iter().enumerate() {
            if is_any_of(groups, its_groups) {
                words[class / 64] |= 1 << (class % 64);
            }
        }
        ClassSet(words.into())
    }
}

/// Whether one of `groups` is among those of a device.
pub(crate) fn is_any_of(groups: &[Group], its_groups: &BTreeSet<Group>) -> bool {
    groups.iter().any(|group| its_groups.contains(group))
}

/// A set of classes, at one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassSet(Box<[u64]>);

impl ClassSet {
    /// Takes a class in, or out.
    pub(crate) fn set(&mut self, class: Class, is_in: bool) {
        let class = usize::from(class.0);
        if class / 64 >= self.0.len() {
            let mut words = std::mem::take(&mut self.0).into_vec();
            words.resize(class / 64 + 1, 0);
            self.0 = words.into();
        }
        let bit = 1 << (class % 64);
        if is_in {
            self.0[class / 64] |= bit;
        } else {
            self.0[class / 64] &= !bit;
        }
    }

    /// Whether the class is in it. A class that nobody had defined when the set was made is not.
    pub(crate) fn contains(&self, class: Class) -> bool {
        let class = usize::from(class.0);
        self.0
            .get(class / 64)
            .is_some_and(|word| word & (1 << (class % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(names: &[&str]) -> Vec<Group> {
        let parse = |name: &&str| Group::parse(name).expect("legal");
        names.iter().map(parse).collect()
    }

    fn definition(class: u16, names: &[&str]) -> ClassDefinition {
        ClassDefinition {
            class: Class(class),
            groups: groups(names).into_iter().collect(),
        }
    }

    #[test]
    fn a_class_is_admitted_for_any_of_its_groups() {
        let mut classes = Classes::default();
        for (class, names) in [
            (1, &["blue"][..]),
            (2, &["green"]),
            (70, &["blue", "red"]),
            (65_535, &["red"]),
        ] {
            assert!(classes.define(&definition(class, names)));
            assert!(!classes.define(&definition(class, names)));
        }
        let check = |asked: &[&str], expected: &[u16]| {
            let set = classes.in_any_of(&groups(asked));
            let found: Vec<u16> = (0..=65_535)
                .filter(|class| set.contains(Class(*class)))
                .collect();
            assert_eq!(found, expected, "{asked:?}");
        };
        check(&["blue"], &[1, 70]);
        check(&["red", "green"], &[2, 70, 65_535]);
        check(&["violet"], &[]);
        check(&[], &[]);
    }

    #[test]
    fn classes_come_and_go() {
        let mut set = ClassSet::default();
        for class in [3, 64, 65_535] {
            set.set(Class(class), true);
            assert!(set.contains(Class(class)));
        }
        set.set(Class(64), false);
        let found: Vec<u16> = (0..=65_535)
            .filter(|class| set.contains(Class(*class)))
            .collect();
        assert_eq!(found, [3, 65_535]);
    }

    #[test]
    fn what_nobody_defined_is_in_no_group() {
        let mut classes = Classes::default();
        assert!(!classes.in_any_of(&groups(&["blue"])).contains(Class(9)));
        assert!(!classes.define(&definition(0, &["blue"])));
        assert!(classes.define(&definition(9, &["blue"])));
        let set = classes.in_any_of(&groups(&["blue"]));
        assert!(set.contains(Class(9)));
        assert!(!set.contains(Class(0)) && !set.contains(Class(8)) && !set.contains(Class(10)));
    }
}
