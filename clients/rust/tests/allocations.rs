//! No allocation per request once everything is warm: building, encoding, sending, receiving, decoding.
#![allow(unsafe_code)]

mod fake;

use std::alloc::{GlobalAlloc, Layout as MemoryLayout, System};
use std::cell::Cell;
use std::time::Duration;

use fake::{Server, description};
use gavel_client::blocking::Client as BlockingClient;
use gavel_client::{Call, Client, FeatureHandle, Layout, Options, RequestBuilder, Scores};

/// Counts what the present thread allocates; the fake server's threads do not count.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes on to the system's allocator unchanged; counting touches no memory that was allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: MemoryLayout) -> *mut u8 {
        count();
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: MemoryLayout) {
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: MemoryLayout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> usize {
    COUNT.with(Cell::get)
}

/// Requests of changing shape, by name and by handle; the first rounds see the largest.
fn build(builder: &mut RequestBuilder, price: FeatureHandle, number: usize) {
    builder.clear();
    builder.context().id("user", number as u64).expect("good");
    for candidate in 0..[40, 1, 7, 33][number % 4] {
        let words = &[1, 2, 3, 4][..candidate % 5];
        builder
            .add_candidate()
            .and_then(|mut row| {
                row.id("ad", (candidate % 100) as u64)?.dense(price, candidate as f32)?;
                row.weighted_ids("words", words, &[0.5; 4][..words.len()])?;
                row.bid(number as i64)?.eligible(candidate % 3 != 0)?;
                Ok(())
            })
            .expect("good");
    }
    builder.top_k((number % 3) as u32);
}

const WARM: usize = 50;
const COUNTED: usize = 2000;

#[test]
fn blocking() {
    let server = Server::start(|_, peer| peer.behave());
    let client = BlockingClient::connect(std::slice::from_ref(&server.address), Options::default()).expect("the fake listens");
    let layout = Layout::new(description());
    let price = layout.feature("price").expect("there");
    let mut builder = RequestBuilder::new(&layout);
    let mut scores = Scores::default();
    let mut before = 0;
    for number in 0..WARM + COUNTED {
        if number == WARM {
            before = allocations();
        }
        build(&mut builder, price, number);
        let request = builder.finish().expect("good");
        client.rank_into(&request, &Call::within(Duration::from_secs(10)), &mut scores).expect("scores");
    }
    assert_eq!(allocations() - before, 0, "over {COUNTED} requests");
}

#[test]
fn pooled() {
    let server = Server::start(|_, peer| peer.behave());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let made = runtime.block_on(async {
        let client = Client::connect(std::slice::from_ref(&server.address), Options::default()).await.expect("the fake listens");
        let layout = Layout::new(description());
        let price = layout.feature("price").expect("there");
        let mut builder = RequestBuilder::new(&layout);
        let mut scores = Scores::default();
        let mut before = 0;
        for number in 0..WARM + COUNTED {
            if number == WARM {
                before = allocations();
            }
            build(&mut builder, price, number);
            let request = builder.finish().expect("good");
            client.rank_into(&request, &Call::within(Duration::from_secs(10)), &mut scores).await.expect("scores");
        }
        allocations() - before
    });
    assert_eq!(made, 0, "over {COUNTED} requests");
}
