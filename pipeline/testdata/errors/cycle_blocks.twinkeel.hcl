locals { url = server.a.url }
server "a" { url = server.b.url }
server "b" { url = local.url } # ERROR: Cycle
