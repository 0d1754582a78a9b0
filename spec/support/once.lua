--- Loaded by busted before any spec. busted gives each spec file fresh modules, except those that
--- were there before: this keeps one PKI, one set of ports and one clean-up for the whole run.
require("spec.support.certs")
require("spec.support.nginx")
require("spec.support.openssl_server")
require("spec.support.peer")
require("spec.support.plain")
