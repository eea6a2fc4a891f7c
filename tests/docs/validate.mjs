// SPDX-License-Identifier: Apache-2.0
// Prints what the AsyncAPI initiative's own parser has to say of a document, errors and warnings, a line each.
import { readFileSync } from "node:fs";
import parser from "@asyncapi/parser";

const { document, diagnostics } = await new parser.Parser().parse(readFileSync(process.argv[2], "utf8"));
const ERROR_OR_WARNING = 1;
const complaints = diagnostics.filter(({ severity }) => severity <= ERROR_OR_WARNING);
complaints.forEach(({ path, message }) => console.log(path.join("."), message));
process.exitCode = document && complaints.length === 0 ? 0 : 1;
