//! Several agents, a real etcd, real packets.

mod blocks;
mod deny;
mod facts;
mod foreign;
mod full;
mod matrix;
mod members;
mod nodes;
mod races;
mod restart;
mod routes;
mod secured;
mod stash;
mod store;
mod strange;
mod text;
mod watched;
