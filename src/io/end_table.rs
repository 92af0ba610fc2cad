//! The descriptors that a backend owns, by the ids that it has given out.

use slab::Slab;

use super::EndId;

/// What a backend knows of each descriptor.
#[derive(Debug)]
pub(crate) struct EndTable<T> {
    slab: Slab<(u32, T)>,
    generation: u32,
}

impl<T> Default for EndTable<T> {
    fn default() -> Self {
        Self { slab: Slab::new(), generation: 0 }
    }
}

impl<T> EndTable<T> {
    pub(crate) fn insert(&mut self, entry: T) -> EndId {
        // The slab reuses a slot at once. The generation keeps an old id from reaching the new
        // descriptor.
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = self.slab.insert((generation, entry));
        EndId { slot: slot_number(slot), generation }
    }

    pub(crate) fn get(&self, id: EndId) -> Option<&T> {
        let (generation, entry) = self.slab.get(id.slot as usize)?;
        (*generation == id.generation).then_some(entry)
    }

    pub(crate) fn get_mut(&mut self, id: EndId) -> Option<&mut T> {
        let (generation, entry) = self.slab.get_mut(id.slot as usize)?;
        (*generation == id.generation).then_some(entry)
    }

    pub(crate) fn remove(&mut self, id: EndId) -> Option<T> {
        self.get(id)?;
        self.slab.try_remove(id.slot as usize).map(|(_, entry)| entry)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    pub(crate) fn ids(&self) -> Vec<EndId> {
        let id = |(slot, (generation, _)): (usize, &(u32, T))| EndId {
            slot: slot_number(slot),
            generation: *generation,
        };
        self.slab.iter().map(id).collect()
    }
}

fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).expect("fewer than 2^32 descriptors")
}
