//! Without the feature `layers`: what stands in their place has no value, and costs nothing.

#![allow(clippy::needless_pass_by_ref_mut, clippy::unnecessary_wraps, reason = "as with the feature")]

use std::convert::Infallible;
use std::io;

use kcp_core::Timestamp;

use crate::config::KcpConfig;
use crate::driver::Packet;
use crate::entropy::Entropy;

#[derive(Debug)]
pub(crate) enum Layered {}

impl Layered {
    pub(crate) fn hold(&mut self, _: bool) {
        match *self {}
    }

    pub(crate) fn seal(&mut self, _: Timestamp, _: &[u8], _: usize, _: impl FnMut(&[u8], usize)) {
        match *self {}
    }

    pub(crate) fn receive(&mut self, _: Timestamp, _: &[u8], _: impl FnMut(&[u8])) {
        match *self {}
    }

    pub(crate) fn key(&self) -> u32 {
        match *self {}
    }

    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        match *self {}
    }

    pub(crate) fn handle_timeout(&mut self, _: Timestamp, _: impl FnMut(&[u8], usize)) {
        match *self {}
    }
}

#[derive(Debug)]
pub(crate) enum Front {}

pub(crate) struct Keys {
    pub(crate) current: u32,
    never: Infallible,
}

impl Keys {
    pub(crate) fn open<'a>(&self, _: &'a mut [u8]) -> Result<(&'a [u8], u32), Infallible> {
        match self.never {}
    }
}

impl Front {
    pub(crate) fn of(_: &KcpConfig, _: &Entropy) -> io::Result<Option<Self>> {
        Ok(None)
    }

    pub(crate) fn session(&self, _: bool, _: &Entropy) -> io::Result<Box<Layered>> {
        match *self {}
    }

    pub(crate) fn keys(&self) -> Keys {
        match *self {}
    }

    pub(crate) fn reconfigure(_: Option<&Self>, _: &KcpConfig, _: &Entropy) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn route(whole: &[u8], key: u32) -> Packet<'_> {
        Packet { conv: None, datagram: None, whole, key }
    }

    pub(crate) fn seal(&self, _: Timestamp, _: &[u8], _: impl FnMut(&[u8])) {
        match *self {}
    }
}
