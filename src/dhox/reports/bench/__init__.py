"""What a bench and a comparison of benches show: pages, tables, charts."""
