//! A packet in memory, for tests and fuzzing.

extern crate std;

use std::{cell::RefCell, vec::Vec};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::frame::{Cursor, Frame, Packet, Part};

/// Bytes that behave like the kernel's packets: bytes beyond `linear` have to be pulled before
/// they are directly accessible.
#[derive(Clone, Debug)]
pub struct Buffer {
    bytes: RefCell<Vec<u8>>,
    linear: RefCell<usize>,
    gso_size: u32,
}

impl Buffer {
    /// A plain packet, of which the first `linear` bytes are directly accessible.
    pub fn new(bytes: &[u8], linear: usize) -> Self {
        Self { bytes: RefCell::new(bytes.to_vec()), linear: RefCell::new(linear), gso_size: 0 }
    }

    /// A super-packet whose segments carry this many bytes.
    #[must_use]
    pub fn with_gso_size(self, gso_size: u32) -> Self {
        Self { gso_size, ..self }
    }

    /// The bytes of the packet now.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }
}

impl Frame for Buffer {
    fn len(&self) -> u32 {
        self.bytes.borrow().len() as u32
    }

    fn pull(&self, len: usize) {
        let mut linear = self.linear.borrow_mut();
        if len <= self.bytes.borrow().len() {
            *linear = len.max(*linear);
        }
    }

    fn get<T: FromBytes>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes.borrow();
        let linear = (*self.linear.borrow()).min(bytes.len());
        T::read_from_bytes(bytes[..linear].get(offset..offset + size_of::<T>())?).ok()
    }

    fn set<T: IntoBytes + Immutable>(&self, offset: usize, value: T) -> Option<()> {
        let mut bytes = self.bytes.borrow_mut();
        let linear = (*self.linear.borrow()).min(bytes.len());
        bytes[..linear].get_mut(offset..offset + size_of::<T>())?.copy_from_slice(value.as_bytes());
        Some(())
    }
}

impl Packet for Buffer {
    type Cursor = Numbers;

    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    fn load<T: FromBytes + IntoBytes + Default>(&self, offset: usize) -> Option<T> {
        T::read_from_bytes(self.bytes.borrow().get(offset..offset + size_of::<T>())?).ok()
    }

    fn load_part<const N: usize>(&self, offset: usize, to: &mut [u8; N], len: Part<N>) -> Option<()> {
        let len = len.get() as usize;
        to[..len].copy_from_slice(self.bytes.borrow().get(offset..offset + len)?);
        Some(())
    }

    fn renew(&self, len: usize) -> Option<()> {
        self.bytes.borrow_mut().resize(len, 0);
        *self.linear.borrow_mut() = len;
        Some(())
    }

    fn store_behind<const N: usize, const SKIP: usize>(&self, offset: usize, from: &[u8; N]) -> Option<()> {
        let from = &from[SKIP..];
        self.bytes.borrow_mut().get_mut(offset..offset + from.len())?.copy_from_slice(from);
        Some(())
    }

    fn store_part<const N: usize>(&self, offset: usize, from: &[u8; N], len: Part<N>) -> Option<()> {
        let from = &from[..len.get() as usize];
        self.bytes.borrow_mut().get_mut(offset..offset + from.len())?.copy_from_slice(from);
        Some(())
    }

    fn sum<const N: usize>(&self, bytes: &[u8; N]) -> u32 {
        let words = bytes.as_chunks::<4>().0.iter();
        let sum: u64 = words.map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        ((sum & 0xffff_ffff) + (sum >> 32)) as u32
    }

    fn cursor(&self, end: u32) -> Option<Numbers> {
        Some(Numbers { at: RefCell::new(0), end })
    }
}

/// Two numbers.
#[derive(Debug)]
pub struct Numbers {
    at: RefCell<u32>,
    end: u32,
}

impl Cursor for Numbers {
    fn set(&self, at: u32) {
        *self.at.borrow_mut() = at;
    }

    fn at(&self) -> u32 {
        *self.at.borrow()
    }

    fn end(&self) -> u32 {
        self.end
    }
}
