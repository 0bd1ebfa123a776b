//! A server for tests: each connection runs a script in a thread of its own.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use gavel_client::{Address, Description, RankBody};
use gavel_protocol::{
    Code, DescribedFeature, DescribedOutput, Encoder, FeatureKind, HEADER_BYTES, Header, HelloAnswerBody, Kind, OutputKind, RankView,
    Scope, ScoresBody, feature_flag,
};

pub const SIGNATURE: u64 = 0x5151;
pub const IN_FLIGHT_MAX: u32 = 16;

/// One context feature and three candidate features. The fake answers with `price` as the score.
pub fn description() -> Description {
    Description {
        model: "ctr".to_owned(),
        model_version: 3,
        signature: SIGNATURE,
        candidates_max: 64,
        ids_max: 300,
        context_id_bytes: 8,
        candidate_id_bytes: 4,
        features: vec![
            DescribedFeature {
                id_bytes: 8,
                flags: feature_flag::HASHED | feature_flag::MISSING_ACCEPTED,
                ..DescribedFeature::new("user", FeatureKind::Sparse, Scope::Context, 1)
            },
            DescribedFeature { rows: 100, ..DescribedFeature::new("ad", FeatureKind::Sparse, Scope::Candidate, 1) },
            DescribedFeature::new("price", FeatureKind::Dense, Scope::Candidate, 1),
            DescribedFeature {
                length_max: 4,
                flags: feature_flag::WEIGHTED,
                rows: 1000,
                ..DescribedFeature::new("words", FeatureKind::Sparse, Scope::Candidate, 0)
            },
        ],
        outputs: vec![DescribedOutput { name: "click".to_owned(), kind: OutputKind::Probability }],
    }
}

pub trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

pub struct Server {
    pub address: Address,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Listens on loopback; `script` gets the number of the connection and the connection.
    pub fn start(script: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = Address::Tcp(listener.local_addr().expect("its address").to_string());
        Server::accept(address, script, move || {
            let (stream, _) = listener.accept().expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            Box::new(stream)
        })
    }

    /// The same on a Unix socket.
    pub fn start_unix(path: &std::path::Path, script: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Server {
        let listener = UnixListener::bind(path).expect("a free path");
        Server::accept(Address::Unix(path.to_owned()), script, move || Box::new(listener.accept().expect("a connection").0))
    }

    fn accept(
        address: Address,
        script: impl Fn(usize, &mut Peer) + Send + Sync + 'static,
        mut next: impl FnMut() -> Box<dyn Socket> + Send + 'static,
    ) -> Server {
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let script = Arc::new(script);
        thread::spawn(move || {
            loop {
                let stream = next();
                let number = count.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                thread::spawn(move || script(number, &mut Peer { stream, encoder: Encoder::new() }));
            }
        });
        Server { address, accepted }
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

pub struct Peer {
    stream: Box<dyn Socket>,
    pub encoder: Encoder,
}

impl Peer {
    /// The next frame; none when the client is gone.
    pub fn next(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).ok()?;
        let header = Header::parse(&header).expect("the client writes sound headers");
        let mut body = vec![0; header.body_len as usize];
        self.stream.read_exact(&mut body).ok()?;
        Some((header, body))
    }

    pub fn write(&mut self, bytes: &[u8]) {
        // The client may be gone already.
        let _ = self.stream.write_all(bytes);
    }

    /// Takes the hello and answers it.
    pub fn hello(&mut self) {
        self.hello_with(IN_FLIGHT_MAX, 0);
    }

    pub fn hello_with(&mut self, in_flight_max: u32, idle_timeout_ms: u32) {
        let Some((header, body)) = self.next() else { return };
        assert_eq!(header.kind, Kind::Hello);
        assert!(gavel_protocol::HelloView::parse(&body).expect("a hello").client.starts_with("gavel-client"));
        let answer =
            HelloAnswerBody { server: "fake", version: 1, frame_bytes_max: 1 << 16, candidates_max: 64, in_flight_max, idle_timeout_ms };
        let frame = self.encoder.hello_answer(header.request_id, &answer).to_vec();
        self.write(&frame);
    }

    /// Answers as a server should.
    pub fn answer(&mut self, header: &Header, body: &[u8]) {
        let frame = match header.kind {
            Kind::Rank => return self.scores(header, body),
            Kind::Describe => {
                let view = gavel_protocol::DescribeView::parse(body).expect("a describe");
                if view.model == "ctr" {
                    self.encoder.description(header.request_id, &description()).to_vec()
                } else {
                    self.encoder.error(header.request_id, Code::ModelUnknown, "no such model", 0).to_vec()
                }
            }
            Kind::Ping => self.encoder.pong(header.request_id, body).to_vec(),
            _ => return,
        };
        self.write(&frame);
    }

    /// Prices are the scores; `top_k` is honoured.
    pub fn scores(&mut self, header: &Header, body: &[u8]) {
        let request = RankView::parse(body).expect("a rank");
        let prices: Vec<f32> = request.dense.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(prices.len(), header.candidates as usize);
        let mut winners: Vec<u32> = (0..header.candidates).collect();
        winners.sort_by(|a, b| prices[*b as usize].total_cmp(&prices[*a as usize]));
        winners.truncate(request.top_k as usize);
        let best: Vec<f32> = winners.iter().map(|winner| prices[*winner as usize]).collect();
        let ranked = request.top_k > 0;
        let answer = ScoresBody {
            model_version: 3,
            outputs: 1,
            scores: if ranked { &best } else { &prices },
            status: None,
            winners: ranked.then_some(&winners),
            context_status: 0,
            queue_us: 1,
            compute_us: 2,
            total_us: 3,
        };
        let frame = self.encoder.scores(header.request_id, header.signature, &answer).to_vec();
        self.write(&frame);
    }

    pub fn error(&mut self, request_id: u64, code: Code, retry_after_us: u32) {
        let frame = self.encoder.error(request_id, code, "said the fake", retry_after_us).to_vec();
        self.write(&frame);
    }

    pub fn drain(&mut self) {
        let frame = self.encoder.drain(1000).to_vec();
        self.write(&frame);
    }

    /// Hello, then every frame answered.
    pub fn behave(&mut self) {
        self.hello();
        while let Some((header, body)) = self.next() {
            self.answer(&header, &body);
        }
    }
}

/// The blocks of a request with these prices.
pub struct Blocks {
    user: [u8; 8],
    dense: Vec<u8>,
    ids: Vec<u8>,
    lengths: Vec<u8>,
}

impl Blocks {
    pub fn new(prices: &[f32]) -> Blocks {
        Blocks {
            user: 77_u64.to_le_bytes(),
            dense: prices.iter().flat_map(|price| price.to_le_bytes()).collect(),
            ids: prices.iter().flat_map(|_| 5_u32.to_le_bytes()).collect(),
            lengths: vec![0; prices.len() * 2],
        }
    }

    pub fn body(&self) -> RankBody<'_> {
        RankBody { context_ids: &self.user, dense: &self.dense, ids: &self.ids, lengths: &self.lengths, ..RankBody::default() }
    }
}

/// An address where nobody listens.
pub fn nobody() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    Address::Tcp(listener.local_addr().expect("its address").to_string())
}
