// A TFHE-rs client behind standard input and output: one JSON request a line, one JSON answer a line.
//
// usage: node driver.mjs node-tfhe-1.5
// Byte strings travel as base64, integers as decimal strings. A failed request is answered with {"error": ...}.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const tfhe = createRequire(import.meta.url)(process.argv[2]);
const LIMIT = 1n << 32n;

const KEYS = {
  ClientKey: "TfheClientKey",
  CompactPublicKey: "TfheCompactPublicKey",
  CompressedCompactPublicKey: "TfheCompressedCompactPublicKey",
  CompressedServerKey: "TfheCompressedServerKey",
};

// The last object read of each class: server keys take seconds to make, and tests use one many times.
const lastRead = new Map();
let evaluating;

function classOf(type) {
  const found = tfhe[KEYS[type] ?? type];
  if (found === undefined) throw new Error(`node-tfhe has no ${type}`);
  return found;
}

function read(type, base64) {
  const last = lastRead.get(type);
  if (last?.base64 === base64) return last.object;
  const object = classOf(type).safe_deserialize(Buffer.from(base64, "base64"), LIMIT);
  lastRead.set(type, { base64, object });
  return object;
}

const write = (object) => ({ data: Buffer.from(object.safe_serialize(LIMIT)).toString("base64") });

// node-tfhe takes booleans, numbers up to 32 bits, and BigInt beyond.
function clear(type, value) {
  if (type.endsWith("Bool")) return value !== "0";
  const bits = Number(type.match(/\d+$/)[0]);
  return bits <= 32 ? Number(value) : BigInt(value);
}

const decimal = (value) => BigInt(value).toString();

// No security at all, but right results, and every key and ciphertext is small.
function toyConfig() {
  const noise = (bound) => tfhe.Shortint.try_new_t_uniform(bound);
  const block = new tfhe.ShortintParameters(0);
  block.set_lwe_dimension(32);
  block.set_lwe_noise_distribution(noise(30));
  block.set_glwe_dimension(1);
  block.set_polynomial_size(512);
  const compact = tfhe.ShortintCompactPublicKeyEncryptionParameters.new_parameters(
    512, noise(17), 4n, 4n, 64, 4, 4, tfhe.ShortintEncryptionKeyChoice.Small,
  );
  return tfhe.TfheConfigBuilder.with_custom_parameters(block).use_dedicated_compact_public_key_parameters(compact).build();
}

function fhevmConfig() {
  const block = new tfhe.ShortintParameters(0);
  const compact = new tfhe.ShortintCompactPublicKeyEncryptionParameters(0);
  return tfhe.TfheConfigBuilder.with_custom_parameters(block).use_dedicated_compact_public_key_parameters(compact).build();
}

function useServerKey(key) {
  if (evaluating === key) return;
  tfhe.set_server_key(tfhe.TfheServerKey.new(read("ClientKey", key)));
  evaluating = key;
}

const BUILDER_SUFFIX = (type) => type.replace("FheBool", "boolean").replace("FheUint", "u").replace("FheInt", "i");
const EXPANDER_SUFFIX = (type) => type.replace("Fhe", "").toLowerCase();

const operations = {
  client_key: ({ toy }) => write(tfhe.TfheClientKey.generate(toy ? toyConfig() : fhevmConfig())),
  compressed_server_key: ({ key }) => write(tfhe.TfheCompressedServerKey.new(read("ClientKey", key))),
  compact_public_key: ({ key }) => write(tfhe.TfheCompactPublicKey.new(read("ClientKey", key))),
  compressed_compact_public_key: ({ key }) => write(tfhe.TfheCompressedCompactPublicKey.new(read("ClientKey", key))),
  encrypt: ({ key, type, value }) =>
    write(classOf(type).encrypt_with_client_key(clear(type, value), read("ClientKey", key))),
  decrypt: ({ key, type, data }) => {
    let object = classOf(type).safe_deserialize(Buffer.from(data, "base64"), LIMIT);
    if (type.startsWith("Compressed")) object = object.decompress();
    return { value: decimal(object.decrypt(read("ClientKey", key))) };
  },
  compact_list: ({ public_key, values, packed }) => {
    const builder = tfhe.CompactCiphertextList.builder(read("CompactPublicKey", public_key));
    for (const { type, value } of values) builder[`push_${BUILDER_SUFFIX(type)}`](clear(type, value));
    return write(packed ? builder.build_packed() : builder.build());
  },
  expand: ({ key, data, types }) => {
    useServerKey(key);
    const expander = read("CompactCiphertextList", data).expand();
    const values = types.map((type, index) => expander[`get_${EXPANDER_SUFFIX(type)}`](index));
    return { values: values.map((value) => decimal(value.decrypt(read("ClientKey", key)))) };
  },
  reserialize: ({ type, data }) => write(classOf(type).safe_deserialize(Buffer.from(data, "base64"), LIMIT)),
};

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  let answer;
  try {
    const { operation, ...request } = JSON.parse(line);
    answer = operations[operation](request);
  } catch (error) {
    // Rust errors arrive as strings, JavaScript ones as Error.
    answer = { error: String(error?.message ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
