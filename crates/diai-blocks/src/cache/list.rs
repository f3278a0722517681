//! Lists in the order of use, by index in one array.

/// No index.
const NONE: u32 = u32::MAX;

/// What an entry is, and its neighbours in the list that it is in.
#[derive(Debug)]
pub(super) struct Slot<T> {
    pub(super) item: T,
    pub(super) weight: u64,
    newer: u32,
    older: u32,
}

/// All entries of all lists.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Option<Slot<T>>>,
    free: Vec<u32>,
}

/// One list: entries from the one used last to the one that was not used for longest.
#[derive(Debug)]
pub(super) struct List {
    newest: u32,
    oldest: u32,
    pub(super) weight: u64,
}

impl List {
    pub(super) fn new() -> Self {
        Self { newest: NONE, oldest: NONE, weight: 0 }
    }

    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// An entry that is in no list yet.
    pub(super) fn add(&mut self, item: T, weight: u64) -> u32 {
        let slot = Some(Slot { item, weight, newer: NONE, older: NONE });
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        }
    }

    /// Takes out an entry that is in no list any more.
    pub(super) fn take(&mut self, index: u32) -> Option<Slot<T>> {
        let slot = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(slot)
    }

    pub(super) fn get(&self, index: u32) -> Option<&Slot<T>> {
        self.slots.get(index as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// The next one that was used after `index`, in its list.
    pub(super) fn newer(&self, index: u32) -> Option<u32> {
        self.get(index).map(|slot| slot.newer).filter(|newer| *newer != NONE)
    }

    /// Makes `index`, which is in no list, the newest of `list`.
    pub(super) fn push(&mut self, list: &mut List, index: u32) {
        let before = std::mem::replace(&mut list.newest, index);
        if let Some(slot) = self.get_mut(index) {
            (slot.newer, slot.older) = (NONE, before);
            list.weight += slot.weight;
        }
        match self.get_mut(before) {
            Some(slot) => slot.newer = index,
            None => list.oldest = index,
        }
    }

    /// Takes `index` out of `list`, which it is in.
    pub(super) fn unlink(&mut self, list: &mut List, index: u32) {
        let Some(slot) = self.get(index) else { return };
        let (newer, older, weight) = (slot.newer, slot.older, slot.weight);
        list.weight -= weight;
        match self.get_mut(newer) {
            Some(slot) => slot.older = older,
            None => list.newest = older,
        }
        match self.get_mut(older) {
            Some(slot) => slot.newer = newer,
            None => list.oldest = newer,
        }
    }
}
