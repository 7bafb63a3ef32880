/** What `src/index.ts` promises: whoever calls an exported function can name every type of its signature. */
import path from 'node:path';
import { type Node, SyntaxKind } from 'typescript/unstable/ast';
import {
  isBlock,
  isClassDeclaration,
  isExpressionWithTypeArguments,
  isIdentifier,
  isTypeReferenceNode,
  isVariableDeclaration,
} from 'typescript/unstable/ast/is';
import { API, type Symbol as Named, SymbolFlags } from 'typescript/unstable/sync';
import { afterAll, describe, expect, it } from 'vitest';
import { packageRoot } from '../src/package-root.ts';

const root = packageRoot();
const api = new API({ cwd: root });
afterAll(() => api.close());
const [project] = api.updateSnapshot({ openProject: path.join(root, 'tsconfig.build.json') }).getProjects();
const { program, checker } = project!;

/** What an import or re-export stands for. */
const origin = (symbol: Named): Named =>
  symbol.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
/** Whether a name is one of this project's, rather than the language's, a package's, or a type parameter. */
const isOwn = ({ declarations, flags }: Named): boolean =>
  (flags & SymbolFlags.TypeParameter) === 0 &&
  declarations.some((declaration) => declaration.path.startsWith(path.join(root, 'src')));

const module = checker.getSymbolAtLocation(program.getSourceFile(path.join(root, 'src/index.ts'))!)!;
const exported = new Map(
  checker.getExportsOfModule(module).map((symbol) => [origin(symbol).id, symbol.name]),
);

/** Names in the types that a declaration shows: not in its bodies, nor in what only the class itself sees. */
function* namesIn(node: Node): Generator<Node> {
  if (isBlock(node)) return;
  if (isTypeReferenceNode(node)) yield node.typeName;
  if (isExpressionWithTypeArguments(node) && isIdentifier(node.expression)) yield node.expression;
  const children: Node[] = [];
  if (isVariableDeclaration(node)) {
    if (node.type !== undefined) children.push(node.type);
  } else node.forEachChild((child) => void children.push(child));
  for (const child of children) {
    if (isClassDeclaration(node) && isHidden(child)) continue;
    yield* namesIn(child);
  }
}

/** `#name` and `private name`. */
function isHidden(member: Node): boolean {
  let hidden = false;
  member.forEachChild((child) => {
    hidden ||= child.kind === SyntaxKind.PrivateIdentifier || child.kind === SyntaxKind.PrivateKeyword;
  });
  return hidden;
}

describe('the index', () => {
  it('exports every type that an exported signature names', () => {
    const missing = new Map<string, string>();
    for (const symbol of checker.getExportsOfModule(module)) {
      const declarations = origin(symbol).declarations.map((handle) => handle.resolve(project)!);
      for (const name of declarations.flatMap((declaration) => [...namesIn(declaration)])) {
        const found = checker.getSymbolAtLocation(name);
        const target = found === undefined ? undefined : origin(found);
        if (target === undefined || !isOwn(target) || exported.has(target.id)) continue;
        const file = path.relative(path.join(root, 'src'), target.declarations[0]!.path);
        missing.set(`${target.name} of ${file}`, symbol.name);
      }
    }
    expect([...missing].map(([type, user]) => `${type}, by ${user}`)).toEqual([]);
  });
});
