//! The weights of the model by name, with their shape, initial values and role.

use nanochat_tensor::Tensor;

use super::GptConfig;

/// A `T` for every weight of the model. `N` is the number of matrices that hold c_q, c_k and c_v: three, or one that
/// joins their rows (`joined.rs`).
#[derive(Clone)]
pub struct Weights<T = Tensor, const N: usize = 3> {
    pub wte: T, // (V, C)
    pub layers: Vec<Layer<T, N>>,
    pub lm_head: T, // (V, C)
}

/// A `T` for every weight of one layer.
#[derive(Clone)]
pub struct Layer<T = Tensor, const N: usize = 3> {
    pub qkv: [T; N],  // c_q (C, C), c_k (KVH·D, C), c_v (KVH·D, C)
    pub attn_proj: T, // (C, C)
    pub c_fc: T,      // (4C, C)
    pub mlp_proj: T,  // (C, 4C)
}

/// The description of a weight. It holds no heap memory, since `plan` creates thousands of lists of them.
pub struct Weight {
    /// The layer it belongs to.
    layer: Option<usize>,
    part: &'static str,
    pub shape: [usize; 2],
    pub role: WeightRole,
    pub init: Init,
}

/// The role of a weight in the model. `groups.rs` gives the optimizer of each role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightRole {
    /// A table whose rows are looked up by token.
    Embedding,
    Unembedding,
    /// A matrix inside a layer.
    Matrix,
}

/// The initial values of a weight.
#[derive(Clone, Copy)]
pub enum Init {
    Zero,
    /// Normal with this standard deviation, from the random stream of this number.
    Normal {
        std: f32,
        stream: usize,
    },
}

impl Weight {
    /// Returns its name as in nanochat's checkpoints; `huggingface::tensor_name` converts it for model.safetensors.
    pub fn name(&self) -> String {
        match self.layer {
            Some(i) => format!("transformer.h.{i}.{}.weight", self.part),
            None => format!("{}.weight", self.part),
        }
    }

    /// Returns the number of its values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Weights<Weight> {
    /// Returns the description of every weight of a model of these sizes.
    pub fn of(config: &GptConfig) -> Weights<Weight> {
        let (v, c, kv_dim) = (config.vocab_size, config.n_embd, config.kv_dim());
        let table = |part, role, init| Weight { layer: None, part, shape: [v, c], role, init };
        let layer = |i: usize| {
            let weight =
                |part, shape, init| Weight { layer: Some(i), part, shape, role: WeightRole::Matrix, init };
            let matrix = |part, n: usize, [fan_out, fan_in]: [usize; 2]| {
                let std = (fan_out as f32 / fan_in as f32).sqrt().min(1.0) / (fan_in as f32).sqrt();
                weight(part, [fan_out, fan_in], Init::Normal { std, stream: 2 + 4 * i + n })
            };
            Layer {
                qkv: [
                    matrix("attn.c_q", 0, [c, c]),
                    matrix("attn.c_k", 1, [kv_dim, c]),
                    matrix("attn.c_v", 2, [kv_dim, c]),
                ],
                attn_proj: weight("attn.c_proj", [c, c], Init::Zero),
                c_fc: matrix("mlp.c_fc", 3, [4 * c, c]),
                mlp_proj: weight("mlp.c_proj", [c, 4 * c], Init::Zero),
            }
        };
        Weights {
            wte: table("transformer.wte", WeightRole::Embedding, Init::Normal { std: 1.0, stream: 1 }),
            layers: (0..config.n_layer).map(layer).collect(),
            lm_head: table("lm_head", WeightRole::Unembedding, Init::Zero),
        }
    }
}

/// Iterators over the weights in a fixed order: embedding, layers, head. `from_each` takes values in the same order.
impl<T, const N: usize> Weights<T, N> {
    pub fn each(&self) -> impl Iterator<Item = &T> {
        [&self.wte].into_iter().chain(self.layers.iter().flat_map(Layer::each)).chain([&self.lm_head])
    }

    pub fn each_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let layers = self.layers.iter_mut().flat_map(Layer::each_mut);
        [&mut self.wte].into_iter().chain(layers).chain([&mut self.lm_head])
    }

    /// Makes weights from `values`, in the order of `each`.
    ///
    /// # Panics
    /// Panics if there are fewer values than weights.
    pub fn from_each(config: &GptConfig, values: impl IntoIterator<Item = T>) -> Weights<T, N> {
        let mut values = values.into_iter();
        let mut next = || values.next().expect("a value for every weight");
        Weights {
            wte: next(),
            layers: (0..config.n_layer).map(|_| Layer::from_each(&mut next)).collect(),
            lm_head: next(),
        }
    }
}

impl<T, const N: usize> Layer<T, N> {
    fn each(&self) -> impl Iterator<Item = &T> {
        self.qkv.iter().chain([&self.attn_proj, &self.c_fc, &self.mlp_proj])
    }

    fn each_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.qkv.iter_mut().chain([&mut self.attn_proj, &mut self.c_fc, &mut self.mlp_proj])
    }

    fn from_each(next: &mut impl FnMut() -> T) -> Layer<T, N> {
        Layer { qkv: std::array::from_fn(|_| next()), attn_proj: next(), c_fc: next(), mlp_proj: next() }
    }
}
