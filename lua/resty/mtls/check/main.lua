--- What bin/resty-mtls-check hands to the interpreter.
os.exit(require("resty.mtls.check").run(arg))
