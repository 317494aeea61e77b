//! Images, families and answers of a pool as small numbers.
//!
//! Invariant: equal things have equal numbers, in the order in which they first come. Deliberately absent: their meaning.

use std::collections::{HashMap, hash_map::Entry};
use std::hash::Hash;

/// Gives every different thing a number, in the order in which they first come.
pub(super) struct Interner<T>(HashMap<T, u32>);

impl<T: Eq + Hash> Interner<T> {
    /// The thing's number, and whether it is new.
    pub fn number(&mut self, thing: T) -> (u32, bool) {
        let next = self.0.len() as u32;
        match self.0.entry(thing) {
            Entry::Occupied(there) => (*there.get(), false),
            Entry::Vacant(free) => (*free.insert(next), true),
        }
    }
}

/// Numbers for the images, families and answers of samples.
pub(super) struct Groups {
    images: Interner<uuid::Uuid>,
    families: Interner<String>,
    pub answers: Interner<String>,
    pub names: Vec<String>,
}

impl Groups {
    pub fn new() -> Self {
        Self {
            images: Interner(HashMap::new()),
            families: Interner(HashMap::new()),
            answers: Interner(HashMap::new()),
            names: Vec::new(),
        }
    }

    /// Numbers of an image and a family.
    pub fn numbers(&mut self, image: uuid::Uuid, family: String) -> (u32, u32) {
        let (family_number, new) = match self.families.0.get(&family) {
            Some(number) => (*number, false),
            None => self.families.number(family.clone()),
        };
        if new {
            self.names.push(family);
        }
        (self.images.number(image).0, family_number)
    }
}
