// Compiles the dapp and the empty proxies of fhevm's host contracts, as fhevm itself does.
//
// usage: node compile.mjs > contracts.json
// Prints {name: {abi, bytecode}}. Imports are found in node_modules; the addresses are those that the published
// contracts and @fhevm/solidity have compiled in.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const solc = createRequire(import.meta.url)("solc");

const ADDRESSES = `// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.24;
address constant aclAdd = 0x50157CFfD6bBFA2DECe204a89ec419c23ef5755D;
address constant fhevmExecutorAdd = 0xe3a9105a3a932253A70F126eb1E3b589C643dD24;
address constant kmsVerifierAdd = 0x901F8942346f7AB3a01F6D7613119Bca447Bb030;
address constant inputVerifierAdd = 0x36772142b74871f255CbD7A3e89B401d3e45825f;
address constant hcuLimitAdd = 0x233ff88A48c172d29F675403e6A8e302b0F032D9;
`;

const find = (path) => {
  if (path.endsWith("addresses/FHEVMHostAddresses.sol")) return { contents: ADDRESSES };
  try {
    return { contents: readFileSync(join(here, path.startsWith("contracts/") ? "" : "node_modules", path), "utf8") };
  } catch (error) {
    return { error: error.message };
  }
};

const WANTED = {
  "contracts/ConfidentialToken.sol": "ConfidentialToken",
  "@fhevm/host-contracts/contracts/emptyProxy/EmptyUUPSProxy.sol": "EmptyUUPSProxy",
  "@fhevm/host-contracts/contracts/emptyProxyACL/EmptyUUPSProxyACL.sol": "EmptyUUPSProxyACL",
  "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol": "ERC1967Proxy",
};

const input = {
  language: "Solidity",
  sources: Object.fromEntries(Object.keys(WANTED).map((path) => [path, { content: find(path).contents }])),
  settings: {
    optimizer: { enabled: true, runs: 800 },
    evmVersion: "cancun",
    metadata: { bytecodeHash: "none" },
    outputSelection: Object.fromEntries(
      Object.entries(WANTED).map(([path, name]) => [path, { [name]: ["abi", "evm.bytecode.object"] }]),
    ),
  },
};

const output = JSON.parse(solc.compile(JSON.stringify(input), { import: find }));
const errors = (output.errors ?? []).filter(({ severity }) => severity === "error");
if (errors.length > 0) {
  console.error(errors.map(({ formattedMessage }) => formattedMessage).join("\n"));
  process.exit(1);
}
console.log(
  JSON.stringify(
    Object.fromEntries(
      Object.entries(WANTED).map(([path, name]) => {
        const { abi, evm } = output.contracts[path][name];
        return [name, { abi, bytecode: `0x${evm.bytecode.object}` }];
      }),
    ),
  ),
);
