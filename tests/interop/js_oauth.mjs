// The OAuth 2.0 functions of matrix-js-sdk (js_grants.mjs), told what to do over standard input and output: see
// js_wire.mjs for the lines.
import { logger } from "matrix-js-sdk/lib/logger.js";

import { grants } from "./js_grants.mjs";
import { serve } from "./js_wire.mjs";

const { base_url: baseUrl } = JSON.parse(process.argv[2]);
logger.setLevel("error");
serve(grants(baseUrl));
